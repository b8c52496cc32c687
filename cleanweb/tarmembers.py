"""A tar file as a list of members with their places, hostile ones too; and the bytes at a place.

Nothing is unpacked, no link is followed, and no header is believed: a size or a name that cannot be right ends the list
with `BrokenTar`. ustar, GNU and PAX headers; a compressed tar cannot be read at a place and is not opened. Memory: one
member.
"""

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from cleanweb.records import MOST_BYTES, Status, Unread

BLOCK = 512
MOST_HEADER_BYTES = 1 << 20  # of a PAX header or a long name

_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PAX, _LONG_NAME = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE), (tarfile.GNUTYPE_LONGNAME,)
_AHEAD = (*_PAX, *_LONG_NAME, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK)  # headers that speak of the next member
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.DIRTYPE: "a folder",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
_WITHOUT_DATA = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)


class BrokenTar(Exception):
    """Why a tar, or one of its members, cannot be read, in words."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member: a file, or what it is instead."""

    name: str  # as written; what is not UTF-8 as lone surrogates
    place: int  # the byte at which its header begins
    size: int  # bytes, as its header says
    kind: str = ""  # "" for a file that can be read, else what it is: "a symbolic link" …
    cut: bool = False  # the tar ends within it


def members(tar: BinaryIO, n_bytes: int) -> Iterator[Member]:
    """The members of a seekable tar of that size, in their order; where it has another position when it goes on, that
    does not matter. A member that the tar's end cuts off is the last. Raises BrokenTar where the list breaks off."""
    at, name, size = 0, None, None
    while True:
        info = _header(tar, at, n_bytes)
        if info is None:
            return
        place, at = at, at + BLOCK
        if info.type in _AHEAD:
            said = _payload(tar, at, info.size, n_bytes)
            at += _blocks(info.size)
            if info.type in _PAX:
                said_name, size = _pax(said, place)
                name = said_name or name
            elif info.type in _LONG_NAME:
                name = said.rstrip(b"\0").decode("utf-8", "surrogateescape")
            continue
        kind = "" if info.type in _FILES else _KINDS.get(info.type, "of an unknown kind")
        if size is not None and size != info.size:
            kind, info.size = "a file with two sizes", max(size, info.size)
        if info.type == tarfile.GNUTYPE_SPARSE:
            at = _beyond_sparse(tar, at, n_bytes)
        data = 0 if info.type in _WITHOUT_DATA else info.size
        cut = at + data > n_bytes
        yield Member(info.name if name is None else name, place, info.size, kind, cut)
        if cut:
            return
        at, name, size = at + _blocks(data), None, None


def read(tar: BinaryIO, place: int) -> bytes | Unread:
    """The bytes of the member whose header is at that place."""
    tar.seek(place)
    try:
        info = _parsed(tar.read(BLOCK), place)
    except BrokenTar as error:
        return Unread(Status.ERROR, f"the tar is not what it was: {error}")
    if info.type not in _FILES:
        return Unread(Status.ERROR, "the tar is not what it was: there is no file at this place")
    if info.size > MOST_BYTES:
        return Unread(Status.TOO_LARGE, f"{info.size:,} bytes; the limit is {MOST_BYTES:,}")
    content = tar.read(info.size)
    if len(content) < info.size:
        return Unread(Status.TRUNCATED, f"the tar ends within it: {len(content):,} of {info.size:,} bytes")
    return content


def stream(tar: BinaryIO, places: Iterable[int]) -> Iterator[tuple[int, bytes | Unread]]:
    """These members' bytes, from the first to the last."""
    for place in sorted(places):
        yield place, read(tar, place)


def _header(tar: BinaryIO, at: int, n_bytes: int) -> tarfile.TarInfo | None:
    """The header at that place; None at the end."""
    tar.seek(at)
    block = tar.read(BLOCK)
    if len(block) == BLOCK and not block.strip(b"\0"):
        return None
    if not block and at >= n_bytes and at > 0:
        raise BrokenTar(f"the tar ends at byte {at:,} without an end mark: it may have been cut off")
    return _parsed(block, at)


def _parsed(block: bytes, at: int) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError, OverflowError) as error:
        what = "is no tar file" if at == 0 else f"breaks off: there is no header at byte {at:,}"
        raise BrokenTar(f"the file {what} ({error})") from None
    if info.size < 0:
        raise BrokenTar(f"the file breaks off: a size below zero at byte {at:,}")
    return info


def _payload(tar: BinaryIO, at: int, size: int, n_bytes: int) -> bytes:
    if size > MOST_HEADER_BYTES:
        raise BrokenTar(f"the file breaks off: a header of {size:,} bytes at byte {at:,}")
    if at + size > n_bytes:
        raise BrokenTar(f"the file breaks off within a header at byte {at:,}")
    tar.seek(at)
    return tar.read(size)


def _pax(said: bytes, at: int) -> tuple[str | None, int | None]:
    """The name and the size that a PAX header tells, where it does: records of "length name=value" and a line feed."""
    name, size, start, end = None, None, 0, len(said.rstrip(b"\0"))
    while start < end:
        digits, _, _ = said[start : start + 20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        if not len(digits) + 2 <= length <= end - start:
            raise BrokenTar(f"the file breaks off: a damaged PAX header at byte {at:,}")
        key, _, value = said[start + len(digits) + 1 : start + length - 1].partition(b"=")
        if key == b"path":
            name = value.decode("utf-8", "surrogateescape")
        elif key == b"size":
            size = int(value) if value.isdigit() and len(value) < 20 else -1
        start += length
    return name, size


def _beyond_sparse(tar: BinaryIO, at: int, n_bytes: int) -> int:
    """Where the data of an old GNU sparse file begin: its header may go on for some blocks."""
    tar.seek(at - BLOCK)
    goes_on = tar.read(BLOCK)[482:483] not in (b"", b"\0")
    while goes_on and at < n_bytes:
        tar.seek(at)
        goes_on = tar.read(BLOCK)[504:505] not in (b"", b"\0")
        at += BLOCK
    return at


def _blocks(size: int) -> int:
    """As many bytes as the blocks that hold so many."""
    return -(-size // BLOCK) * BLOCK
