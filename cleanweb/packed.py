"""Samples and facts of a whole crawl, kept as columns and handed out as the nouns they are.

Millions of Python objects with their texts would fill the memory; columns take 136 bytes an image
(bench/EXPERIMENTS.md). Digests are hexadecimal, or empty.
"""

from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from typing import overload

import numpy as np

from cleanweb import scratch
from cleanweb.records import ImageFacts, Sample, Status

_STATUSES = list(Status)
_CODE = {status: code for code, status in enumerate(_STATUSES)}
_ABSENT = 255
_SAMPLE = np.dtype([("end", "<i8"), ("more", "<i8"), ("id", "<i4"), ("base", "<i4"), ("row", "<i8"), ("label", "<i4"),
                    ("status", "u1"), ("note", "<i4")])  # fmt: skip
_FACTS = np.dtype([("status", "u1"), ("error", "<i4"), ("format", "<i4"), ("width", "<i4"), ("height", "<i4"),
                   ("bytes", "<i8"), ("sha256", "V32"), ("digest", "V16"), ("phash", "<u8"),
                   ("note", "<i4")])  # fmt: skip


class _Texts:
    """Texts of which many are the same, each kept once, by number; −1 is none."""

    def __init__(self) -> None:
        self.texts: list[str | None] = [None]  # at −1, when it is the only one, and always last: see `text`
        self.code: dict[str, int] = {}

    def number(self, text: str | None) -> int:
        if text is None:
            return -1
        code = self.code.get(text)
        if code is None:
            code = self.code[text] = len(self.texts) - 1
            self.texts[-1:] = [text, None]
        return code

    def text(self, number: int) -> str | None:
        return self.texts[number]

    def known(self, number: int) -> str:
        """A text that is never None."""
        return self.texts[number] or ""


class Samples(Sequence[Sample]):
    """The rows of a crawl, in order; each is made when it is asked for."""

    def __init__(self, samples: Iterable[Sample]):
        self._texts, self._paths, self._more = _Texts(), bytearray(), bytearray()
        self._rows = _grown(np.empty(0, _SAMPLE), 1024)
        n = 0
        for n, sample in enumerate(samples, 1):
            self._rows = _grown(self._rows, n)
            self._rows[n - 1] = self._packed(sample)
        self._rows = scratch.copied(self._rows[:n])

    def _packed(self, sample: Sample) -> tuple[object, ...]:
        number, path = self._texts.number, sample.path
        self._paths += path.encode("utf-8", "surrogatepass")
        if sample.url or sample.sha256:
            self._more += f"{len(sample.sha256)} {sample.sha256}{sample.url}".encode("utf-8", "surrogatepass")
        inside = sample.row is None and sample.file.endswith(path)
        base = ~number(sample.file.removesuffix(path)) if inside else number(sample.file)
        return (len(self._paths), len(self._more), number(None if sample.sample_id == path else sample.sample_id), base,
                -1 if sample.row is None else sample.row, number(sample.given_label), _CODE[sample.status],
                number(sample.note))  # fmt: skip

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> Sample: ...
    @overload
    def __getitem__(self, at: slice) -> list[Sample]: ...
    def __getitem__(self, at: int | slice) -> Sample | list[Sample]:
        if isinstance(at, slice):
            return [self[i] for i in range(len(self))[at]]
        at = range(len(self))[at]  # raises IndexError
        end, more, name, base, row, label, status, note = self._rows[at].item()
        start, less = self._rows[["end", "more"]][at - 1].item() if at else (0, 0)
        path = self._paths[start:end].decode("utf-8", "surrogatepass")
        return Sample(
            path if name == -1 else self._texts.known(name),
            path,
            self._texts.known(~base) + path if base < 0 else self._texts.known(base),
            None if row == -1 else row,
            self._texts.text(label),
            _STATUSES[status],
            self._texts.known(note),
            *_url_and_sha256(self._more[less:more].decode("utf-8", "surrogatepass") if more > less else "0 "),
        )

    def __iter__(self) -> Iterator[Sample]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as of any list

    def is_in(self, *statuses: Status) -> np.ndarray:
        """Which have one of these statuses: (n,) bool."""
        return np.isin(self._rows["status"], [_CODE[status] for status in statuses])


def _url_and_sha256(text: str) -> tuple[str, str]:
    length, _, both = text.partition(" ")
    return both[int(length) :], both[: int(length)]


class Facts(MutableMapping[int, ImageFacts]):
    """Facts by the number of the sample; each is made when it is asked for."""

    def __init__(self) -> None:
        self._texts = _Texts()
        self._rows = np.empty(0, _FACTS)
        self._n = 0

    def __setitem__(self, i: int, facts: ImageFacts) -> None:
        self._rows = _grown(self._rows, i + 1)
        self._n += self._rows["status"][i] == _ABSENT
        number = self._texts.number
        self._rows[i] = (
            _CODE[facts.status], number(facts.error), number(facts.format), facts.width, facts.height, facts.bytes,
            bytes.fromhex(facts.sha256), bytes.fromhex(facts.pixel_digest), facts.phash, number(facts.note),
        )  # fmt: skip

    def __getitem__(self, i: int) -> ImageFacts:
        if i not in self:
            raise KeyError(i)
        status, error, form, width, height, n_bytes, sha256, digest, phash, note = self._rows[i].item()
        known = self._texts.known
        return ImageFacts(_STATUSES[status], known(error), known(form), width, height, n_bytes, _hex(sha256),
                          _hex(digest), phash, known(note))  # fmt: skip

    def __delitem__(self, i: int) -> None:
        if i not in self:
            raise KeyError(i)
        self._rows["status"][i], self._n = _ABSENT, self._n - 1

    def __contains__(self, i: object) -> bool:
        return isinstance(i, int) and 0 <= i < len(self._rows) and bool(self._rows["status"][i] != _ABSENT)

    def __iter__(self) -> Iterator[int]:
        return iter(np.flatnonzero(self._rows["status"] != _ABSENT).tolist())

    def __len__(self) -> int:
        return int(self._n)

    def digests(self, numbers: np.ndarray) -> np.ndarray:
        """Of the pixels, as 16 raw bytes each: (m,) void."""
        return self._rows["digest"][numbers]

    def of(self, numbers: np.ndarray) -> "FactsOf":
        """The facts under these numbers (n,), in that order; where there are none, the file is missing."""
        return FactsOf(self, numbers)


def _hex(digest: bytes) -> str:
    """A digest as it is written; zeros where there is none."""
    return digest.hex() if any(digest) else ""


class FactsOf(Sequence[ImageFacts]):
    """Facts in an order, some perhaps several times."""

    def __init__(self, facts: Facts, numbers: np.ndarray):
        self.facts, self.numbers = facts, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, at: int) -> ImageFacts: ...
    @overload
    def __getitem__(self, at: slice) -> list[ImageFacts]: ...
    def __getitem__(self, at: int | slice) -> ImageFacts | list[ImageFacts]:
        if isinstance(at, slice):
            return [self[i] for i in range(len(self))[at]]
        return self.facts.get(int(self.numbers[at]), _MISSING)

    def __iter__(self) -> Iterator[ImageFacts]:
        return map(self.__getitem__, range(len(self)))


_MISSING = ImageFacts(Status.MISSING)


def _grown(rows: np.ndarray, n: int) -> np.ndarray:
    """Room for n rows at least; new ones are absent."""
    if n <= len(rows):
        return rows
    larger = scratch.zeros(max(n, len(rows) + len(rows) // 4, 1024), rows.dtype)
    larger["status"] = _ABSENT
    larger[: len(rows)] = rows
    return larger
