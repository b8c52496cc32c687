"""Small copies of the images, made when they are asked for. Only of samples of the manifest, only as JPEG."""

import stat
import threading
import warnings
from collections import OrderedDict
from hashlib import blake2b
from io import BytesIO

from cleanweb.images import thumbnail
from cleanweb.opening import read_bytes, unescaped
from cleanweb.records import MOST_BYTES, UNREADABLE
from cleanweb.remote import is_address

SIDES_PX = {"small": 320, "large": 1600}
_QUALITY = {"small": 78, "large": 88}
_MOST_BYTES = 96 << 20
_AT_ONCE = threading.Semaphore(3)  # pictures in decoding: each may take 0.5 GB, where it is as large as is allowed

Source = tuple[str | None, int | None, str, str | None]  # of an image: file, row in it, status, error


class NoPicture(Exception):
    """Why there is none, in words."""


class Pictures:
    """Copies of images, the last ones kept in memory, `_MOST_BYTES` of them. Safe to call from several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @staticmethod
    def tag(file: str | None, row: int | None, status: str, error: str | None, size: str) -> str:
        """Another one for another picture. Raises NoPicture."""
        if file is None or status in UNREADABLE:
            raise NoPicture(error or status)
        if is_address(file):
            return blake2b(f"{file}\0{row}\0{size}".encode(errors="replace"), digest_size=12).hexdigest()
        try:
            state = unescaped(file).stat()
        except OSError as problem:
            raise NoPicture(f"the file cannot be read any more: {problem.strerror}") from None
        if not stat.S_ISREG(state.st_mode) or (row is None and state.st_size > MOST_BYTES):
            raise NoPicture("not a file that can be an image")
        return blake2b(f"{file}\0{row}\0{state.st_mtime_ns}\0{state.st_size}\0{size}".encode(errors="replace"),
                       digest_size=12).hexdigest()  # fmt: skip

    def jpeg(self, tag: str, file: str, row: int | None, size: str) -> bytes:
        """The copy of that tag. Raises NoPicture where the file is no readable image any more."""
        with self._lock:
            if tag in self._kept:
                self._kept.move_to_end(tag)
                return self._kept[tag]
        with _AT_ONCE:
            made = _made(file, row, size)
        with self._lock:
            if tag not in self._kept:
                self._kept[tag] = made
                self._bytes += len(made)
            while self._bytes > _MOST_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return made


def _made(file: str, row: int | None, size: str) -> bytes:
    stream = BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            thumbnail(read_bytes(file, row), SIDES_PX[size]).save(stream, "JPEG", quality=_QUALITY[size])
    except Exception as problem:  # whatever a decoder says: it is told in the picture's place
        raise NoPicture(str(problem.args[-1]) if problem.args else type(problem).__name__) from None
    return stream.getvalue()
