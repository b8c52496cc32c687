"""One file → facts, never an exception; and where asked, its pixels.

Takes a file or bytes; gives one `ImageFacts`. Never writes into the crawl, never runs a program. Time: about that of
decoding. Memory: one decoded picture.
"""

import hashlib
import os
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from cleanweb import pixelcache, signatures
from cleanweb.records import MOST_BYTES, ImageFacts, Status, Unread

HASHED_PX = 256  # of the shorter side: what the perceptual hash is read off at least
MAX_PIXELS = 178_956_970  # what Pillow too calls a decompression bomb: 512 MiB of RGB
# Decoders that run other programs, open whatever they hold with any decoder (IPTC: a PostScript drawing, say), or are
# stubs that wait for a handler: never opened, so nothing can be run.
REFUSED = {"BUFR", "EPS", "FPX", "GRIB", "HDF5", "IPTC", "MIC", "MPEG", "WMF"}


class _Trouble(Exception):
    """A file that cannot be used: status, words."""


def inspect_one(
    content: Path | bytes | Unread, name: str = "", side_px: int | None = None
) -> tuple[ImageFacts, np.ndarray | None]:
    """Open one image and decode it to its end, once: its facts, and where the status is OK its pixels (h, w, 3) uint8
    RGB. Never raises.

    `name` is what the bytes were called, to note a wrong extension; a Path brings its own. `side_px`: the pixels are
    the centre square of that side, or smaller, and a large JPEG may be decoded at a half, a quarter or an eighth of its
    scale.
    """
    facts, data = ImageFacts(Status.OK), b""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = _read(content)
            facts = replace(facts, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            opened = _open(data)
            facts = replace(facts, format=opened.format or "", width=opened.width, height=opened.height)
            whole = _reduce(opened, side_px)
            picture = _decode(opened)
            width, height = _upright(whole, opened) if whole else picture.size
            pixels = np.asarray(picture) if side_px is None else pixelcache.centre_square(picture, side_px)
            note = _note(opened, name or (content.name if isinstance(content, Path) else ""))
            facts = replace(facts, width=width, height=height, phash=phash(picture), note=note)
            return replace(facts, pixel_digest=_pixel_digest(facts, pixels)), pixels
        except Exception as error:
            status, words = _explain(error)
            if status == Status.ERROR and signatures.is_short(data):
                status, words = Status.TRUNCATED, f"the file breaks off ({words})"
            return replace(facts, status=status, error=words), None


def thumbnail(content: bytes, side_px: int) -> Image.Image:
    """A small copy, upright, RGB, its longest side at most `side_px`. Raises where the bytes are no readable image."""
    _check_bytes(len(content))
    opened = _open(content)
    opened.draft(None, (side_px, side_px))  # a JPEG need not be decoded in full
    picture = _decode(opened)
    picture.thumbnail((side_px, side_px))
    return picture


def _pixel_digest(facts: ImageFacts, pixels: np.ndarray) -> str:
    """Of a picture's size, its perceptual hash and these pixels of it. All its pixels would cost as much as a fifth of
    decoding them; two pictures that are alike in all this look alike anywhere."""
    seen = hashlib.sha256(f"{facts.width}x{facts.height}:{facts.phash}:".encode())  # which processors do in hardware
    seen.update(np.ascontiguousarray(pixels).data)
    return seen.hexdigest()[:32]


def phash(picture: Image.Image) -> int:
    """The 64-bit perceptual hash: which of the 8 × 8 lowest frequencies of the 32 × 32 grey picture pass their median.

    Unsigned; the bits row by row, the first frequency highest, as in the ImageHash library.
    """
    small = picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS, reducing_gap=3.0)  # a third of the time
    grey = np.asarray(small, dtype=np.float64)
    low = (_COSINES @ grey @ _COSINES.T).round(3)  # in a flat picture the rest is noise of the arithmetic
    below, above = np.sort(low, axis=None)[31:33]  # np.median takes ten times as long over so few
    return int.from_bytes(np.packbits(low > (below + above) / 2).tobytes(), "big")


_COSINES = np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1))  # (8, 32): the DCT's lowest rows


def _read(content: Path | bytes | Unread) -> bytes:
    if isinstance(content, Unread):
        raise _Trouble(content.status, content.words)
    if isinstance(content, Path):
        found = content.stat()
        if not stat.S_ISREG(found.st_mode):
            raise _Trouble(Status.ERROR, "not a regular file")
        _check_bytes(found.st_size)
        content = content.read_bytes()
    _check_bytes(len(content))
    return content


def _check_bytes(n: int) -> None:
    if n == 0:
        raise _Trouble(Status.EMPTY, "zero bytes")
    if n > MOST_BYTES:
        raise _Trouble(Status.TOO_LARGE, f"{n:,} bytes; the limit is {MOST_BYTES:,}")


def _open(data: bytes) -> Image.Image:
    if foreign := signatures.foreign(data):
        raise _Trouble(*foreign)
    try:
        picture = Image.open(BytesIO(data), formats=_formats())
    except UnidentifiedImageError:
        raise _Trouble(*signatures.unidentified(data)) from None
    if picture.width * picture.height > MAX_PIXELS:
        size = f"{picture.width} × {picture.height}"
        raise _Trouble(Status.TOO_LARGE, f"{size} pixels; the limit is {MAX_PIXELS:,} pixels")
    return picture


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    usual = ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF"]  # asked first: they are known by their first bytes
    return (*(name for name in usual if name in Image.OPEN), *sorted(set(Image.OPEN) - REFUSED - set(usual)))


def _reduce(opened: Image.Image, side_px: int | None) -> tuple[int, int] | None:
    """Have a large JPEG decoded at a reduced scale that still holds the square: its whole size, if it is one."""
    whole = opened.size
    if side_px is None or opened.format not in ("JPEG", "MPO"):
        return None
    least = max(side_px, HASHED_PX)
    opened.draft(None, (least, least))
    return whole if opened.size != whole else None


def _decode(opened: Image.Image) -> Image.Image:
    """All pixels of the first frame, upright, as RGB."""
    opened.load()
    picture = to_rgb(opened)
    if 0 in picture.size:
        raise _Trouble(Status.ERROR, "a picture without pixels")
    turn = _turn(opened)
    return picture if turn is None else picture.transpose(turn)


def _turn(opened: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(opened.getexif().get(0x0112, 1))  # EXIF orientation
    except Exception:  # EXIF is often broken where the picture is whole
        return None


def _upright(size: tuple[int, int], opened: Image.Image) -> tuple[int, int]:
    return size[::-1] if _turn(opened) in _LAID_DOWN else size


_LAID_DOWN = {Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE,
              Image.Transpose.ROTATE_90}  # fmt: skip


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode as 8-bit RGB: 16 bits scaled, not clipped; transparent on white; CMYK by Pillow's plain formula."""
    if picture.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bit(np.asarray(picture))).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """(h, w) of wide integers or floats → uint8. The range is not written in the file, so it is read off the values."""
    if values.dtype.kind == "u":  # 16 bits
        return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = values.min(), values.max()
    if low < 0 or high > 65535:
        high = max(high, low + 1)
    else:  # 0…1 are floats' whites, 255 and 65535 those of 8 and 16 bits
        low, high = 0, next(white for white in (1, 255, 65535) if high <= white)
    return ((values - low) * (255 / (high - low))).round().astype(np.uint8)


def _note(opened: Image.Image, name: str) -> str:
    notes = []
    suffix = Path(name).suffix.lower()
    usual = Image.registered_extensions().get(suffix, "")
    if suffix and usual != opened.format and {usual, opened.format} != {"JPEG", "MPO"}:
        notes.append(f"{opened.format} named {suffix}")
    if getattr(opened, "is_animated", False):
        notes.append("first of several frames")
    return "; ".join(notes)


def changed_since(file: Path, facts: ImageFacts) -> str:
    """What has become of a file since it gave these facts, in words; empty where it is as it was, by its size."""
    try:
        size = file.stat().st_size
    except OSError:
        return "the file has vanished since it was read"
    if size != facts.bytes:
        return f"the file has changed since it was read: {size:,} bytes instead of {facts.bytes:,}"
    return "" if os.access(file, os.R_OK) else "the file can no longer be read"


# --- what went wrong, in words --------------------------------------------------------------------------------------

_SIGNS = {
    Status.TRUNCATED: ("truncated", "not enough", "unexpected end", "end of file", "breaks off", "unpack requires"),
    Status.UNSUPPORTED: ("unsupported", "not supported", "unimplemented", "unknown", "cannot find loader"),
}


def _explain(error: Exception) -> tuple[Status, str]:
    """The status that an exception means, and its words on one line."""
    if isinstance(error, _Trouble):
        return error.args
    words = " ".join(str(error).split())[:200] or type(error).__name__
    match error:
        case FileNotFoundError():
            return Status.MISSING, "the file is gone"
        case PermissionError():
            return Status.ERROR, "no permission to read the file"
        case MemoryError():
            return Status.ERROR, "not enough memory to decode it"
        case Image.DecompressionBombError():
            return Status.TOO_LARGE, words
        case EOFError() | struct.error():
            return Status.TRUNCATED, words
        case NotImplementedError():
            return Status.UNSUPPORTED, words
    for status, signs in _SIGNS.items():
        if any(sign in words.lower() for sign in signs):
            return status, words
    return Status.ERROR, words


@cache
def _nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY)


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing reaches file descriptor 2: C libraries write their complaints there, thousands of lines in bad files."""
    try:
        before = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    try:
        os.dup2(_nowhere(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
