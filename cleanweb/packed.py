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
_NAMES = np.array([status.value for status in _STATUSES], object)
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

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """The texts of these numbers (m,): objects, None where there is none or nothing in it."""
        return np.array([text or None for text in self.texts], object)[numbers]


class Samples(Sequence[Sample]):
    """The rows of a crawl, in order; each is made when it is asked for."""

    def __init__(self, samples: Iterable[Sample] = ()):
        self._texts, self._paths, self._more = _Texts(), bytearray(), bytearray()
        self._room, self._n = np.empty(0, _SAMPLE), 0
        self.extend(samples)

    def append(self, sample: Sample) -> None:
        self._room = _grown(self._room, self._n + 1)
        self._room[self._n] = self._packed(sample)
        self._n += 1

    def extend(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            self.append(sample)

    @property
    def _rows(self) -> np.ndarray:
        return self._room[: self._n]

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
        return self._n

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

    def columns(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The fields of the samples of these numbers (m,), by name; texts are objects, None where there is nothing.
        Several times as fast as one sample after the other."""
        of, paths = self._rows[rows], self._paths_of(rows)
        ids, named = paths.copy(), np.flatnonzero(of["id"] != -1)
        ids[named] = [self._texts.known(number) for number in of["id"][named].tolist()]
        inside = of["base"] < 0
        files = self._texts.take(np.where(inside, ~of["base"], of["base"]))
        files[inside] = [((base or "") + path) or None for base, path in zip(files[inside], paths[inside], strict=True)]
        urls, digests = self._said_of(rows)
        return {
            "sample_id": ids,
            "path": paths,
            "file": files,
            "row": of["row"],  # −1 where there is none
            "given_label": self._texts.take(of["label"]),
            "status": _NAMES[of["status"]],
            "note": self._texts.take(of["note"]),
            "url": urls,
            "sha256": digests,
        }

    def labels(self, *statuses: Status) -> tuple[list[str], np.ndarray]:
        """Every label that any was given, or any of these statuses; and each sample's place among them, −1 where it has
        none of them: (n,) int32."""
        given = np.zeros(len(self._texts.texts), bool)
        given[self._rows["label"][self.is_in(*statuses)] if statuses else self._rows["label"]] = True
        given[-1] = False
        place = np.where(given, np.cumsum(given) - 1, -1).astype(np.int32)
        return [self._texts.known(number) for number in np.flatnonzero(given).tolist()], place[self._rows["label"]]

    def _paths_of(self, rows: np.ndarray) -> np.ndarray:
        begins, ends = self._spans("end", rows)
        return _objects(self._paths[a:b].decode("utf-8", "surrogatepass") for a, b in zip(begins, ends, strict=True))

    def _said_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Addresses and digests."""
        both = np.full((2, len(rows)), None, object)
        for i, (a, b) in enumerate(zip(*self._spans("more", rows), strict=True)) if self._more else ():
            if b > a:
                url, sha256 = _url_and_sha256(self._more[a:b].decode("utf-8", "surrogatepass"))
                both[:, i] = url or None, sha256 or None
        return both[0], both[1]

    def _spans(self, column: str, rows: np.ndarray) -> tuple[list[int], list[int]]:
        """Where the bytes of these rows begin and end."""
        ends = self._rows[column]
        return np.where(rows > 0, ends[rows - 1], 0).tolist(), ends[rows].tolist()

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
        self.texts = _Texts()
        self._rows = np.empty(0, _FACTS)
        self._n = 0

    def __setitem__(self, i: int, facts: ImageFacts) -> None:
        self._rows = _grown(self._rows, i + 1)
        self._n += self._rows["status"][i] == _ABSENT
        number = self.texts.number
        self._rows[i] = (
            _CODE[facts.status], number(facts.error), number(facts.format), facts.width, facts.height, facts.bytes,
            bytes.fromhex(facts.sha256), bytes.fromhex(facts.pixel_digest), facts.phash, number(facts.note),
        )  # fmt: skip

    def __getitem__(self, i: int) -> ImageFacts:
        if i not in self:
            raise KeyError(i)
        status, error, form, width, height, n_bytes, sha256, digest, phash, note = self._rows[i].item()
        known = self.texts.known
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

    def packed(self, numbers: np.ndarray) -> np.ndarray:
        """Those under these numbers (m,), as they are kept: (m,) of _FACTS; a missing file where there are none."""
        rows = np.full(len(numbers), _MISSING_ROW)
        there = np.flatnonzero(numbers < len(self._rows))
        there = there[self._rows["status"][numbers[there]] != _ABSENT]
        rows[there] = self._rows[numbers[there]]
        return rows

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

    def columns(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The fields of the facts at these places (m,), by name; texts are objects, None where there is nothing."""
        of, take = self.facts.packed(self.numbers[rows]), self.facts.texts.take
        return {
            "status": _NAMES[of["status"]],
            "error": take(of["error"]),
            "format": take(of["format"]),
            "width": of["width"],
            "height": of["height"],
            "bytes": of["bytes"],
            "sha256": _digests(of["sha256"]),
            "pixel_digest": _digests(of["digest"]),
            "phash": of["phash"],
            "note": take(of["note"]),
        }


_MISSING = ImageFacts(Status.MISSING)
_MISSING_ROW = np.array((_CODE[Status.MISSING], -1, -1, 0, 0, 0, b"", b"", 0, -1), _FACTS)


def hexadecimal(raw: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Numbers (m,) of whatever size by their digits: objects, None where they are not `there` (m,)."""
    digits, n = raw.tobytes().hex(), 2 * raw.itemsize
    texts = _objects(digits[k : k + n] for k in range(0, len(digits), n))
    texts[~there] = None
    return texts


def _digests(raw: np.ndarray) -> np.ndarray:
    return hexadecimal(raw, raw != np.void(bytes(raw.itemsize)))


def _objects(texts: Iterable[str]) -> np.ndarray:
    return np.array([*texts, None], object)[:-1]


def _grown(rows: np.ndarray, n: int) -> np.ndarray:
    """Room for n rows at least; new ones are absent."""
    if n <= len(rows):
        return rows
    larger = scratch.zeros(max(n, len(rows) + len(rows) // 4, 1024), rows.dtype)
    larger["status"] = _ABSENT
    larger[: len(rows)] = rows
    return larger
