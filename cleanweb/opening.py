"""Opens what samples name: files, what Parquet embeds, what lies in a tar; here or elsewhere. Writes nothing."""

import os
import re
import stat
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, cast

from cleanweb import remote, tarmembers
from cleanweb.errors import CrawlError
from cleanweb.records import CLOSED, Sample, Status, Unread
from cleanweb.remote import is_address

_PARQUET = "cleanweb.parquetfile"  # loads DuckDB: where need be
_ONE_PICTURE_BYTES = 1 << 18  # fetched at once where one picture of a shard is wanted


def contents(
    samples: Sequence[Sample], indices: Iterable[int] | None = None
) -> Iterator[tuple[int, Path | bytes | Unread]]:
    """The index of every sample that can be opened, with its file, or its bytes where Parquet or a tar holds them, or
    why it has none. indices: only of these.

    Not of those that a reader found closed, and of repeated and conflicting rows: their first row stands for them.
    Single files come in order, then the Parquet and tar files one after the other, streamed: memory holds some rows at
    a time.
    """
    held: dict[str, array[int]] = defaultdict(lambda: array("q"))
    elsewhere: list[int] = []
    for index in range(len(samples)) if indices is None else indices:
        sample = samples[index]
        if sample.status in CLOSED:
            continue
        if sample.row is None and is_address(sample.file):
            elsewhere.append(index)
        elif sample.row is None:
            yield index, Path(sample.file)
        else:
            held[sample.file].append(index)
    yield from zip(elsewhere, remote.fetch_all(samples[i].file for i in elsewhere), strict=True)
    for file, of_file in held.items():
        index_of = {row: index for index in of_file if (row := samples[index].row) is not None}
        words = "the file that holds it does not any more"
        try:
            for row, content in embedded_images(file, index_of):
                yield index_of.pop(row), content
        except CrawlError as error:
            words = str(error)
        yield from ((index, Unread(Status.ERROR, words)) for index in index_of.values())


def bytes_of(content: Path | bytes | Unread) -> bytes:
    """One of `contents`. Raises OSError or CrawlError where it has no bytes."""
    if isinstance(content, Unread):
        raise CrawlError(f"An image cannot be read: {content.words}.")
    return content if isinstance(content, bytes) else content.read_bytes()


def embedded_images(file: str, rows: Collection[int]) -> Iterator[tuple[int, bytes | Unread]]:
    """These rows of a Parquet file and the images it embeds, or these places in a tar and the images there, in order,
    streamed: 20,000 images of 20 kB in 0.5 s. What a file no longer has is left out.

    Raises CrawlError where the file cannot be read.
    """
    file = file if is_address(file) else os.fspath(unescaped(file))
    if not is_tar(file):
        wanted = set(rows)
        yield from (found for found in import_module(_PARQUET).stream(file) if found[0] in wanted)
        return
    try:
        with opened(file) as (tar, _):
            yield from tarmembers.stream(tar, rows)
    except OSError as error:
        raise CrawlError(f"{file} cannot be read: {error.strerror or error}.") from None


def read_bytes(file: str, row: int | None) -> bytes:
    """One image's bytes: the whole `file`; what that place in a tar holds; or what that row of a Parquet file embeds
    (0.02 s where its row groups hold 2,000 images of 20 kB; all of them are read for one). Raises OSError or
    CrawlError."""
    if row is None:
        return remote.fetch(file) if is_address(file) else _regular(unescaped(file)).read_bytes()
    file = file if is_address(file) else os.fspath(unescaped(file))
    if not is_tar(file):
        return import_module(_PARQUET).embedded(file, row)
    with opened(file, ahead=_ONE_PICTURE_BYTES) as (tar, _):
        content = tarmembers.read(tar, row)
    if isinstance(content, Unread):
        raise CrawlError(f"{file}, byte {row:,}: {content.words}.")
    return content


def _regular(file: Path) -> Path:
    """A pipe would be waited for."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise CrawlError(f"{file} is not a regular file.")
    return file


@contextmanager
def opened(file: str, ahead: int = remote.WINDOW_BYTES) -> Iterator[tuple[BinaryIO, int]]:
    """A file to read at any place, and its size in bytes. ahead: how much to fetch at once of one that lies elsewhere.
    Raises OSError."""
    if is_address(file):
        with remote.File(file, ahead) as stream:
            yield cast("BinaryIO", stream), stream.size
        return
    with Path(file).open("rb") as stream:
        yield stream, os.fstat(stream.fileno()).st_size


def is_tar(file: str) -> bool:
    """By its name."""
    return file.lower().endswith(".tar")


def unescaped(file: str) -> Path:
    """The file of that `printable` name."""
    if os.path.exists(file):  # noqa: PTH110 (Path.exists raises where a name is too long or holds a NUL)
        return Path(file)
    return Path(re.sub(r"\\udc([89a-f][0-9a-f])", lambda byte: chr(0xDC00 + int(byte[1], 16)), file))
