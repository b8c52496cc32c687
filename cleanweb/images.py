"""One file → facts, never an exception; and its pixels, decoded once for all later stages.

Takes files or bytes; gives one `ImageFacts` each and, where asked, a `PixelCache`. Never writes into the crawl, never
runs a program. Time: about the time of decoding, spread over the worker processes. Memory: one decoded picture per
process. A million images at 224 px take 150 GB of cache.
"""

import hashlib
import logging
import os
import stat
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from cleanweb.errors import MachineError, RunError
from cleanweb.records import ImageFacts, Progress, Status
from cleanweb.workers import Failed, run

MAX_PIXELS = 178_956_970  # what Pillow too calls a decompression bomb: 512 MiB of RGB
MAX_BYTES = 500_000_000
# Decoders that run other programs, or are stubs that wait for a handler: never opened, so nothing can be run.
REFUSED = {"BUFR", "EPS", "FPX", "GRIB", "HDF5", "MIC", "MPEG", "WMF"}


class _Trouble(Exception):
    """A file that cannot be used: status, words."""


# --- one file -------------------------------------------------------------------------------------------------------


def inspect_one(content: Path | bytes, name: str = "") -> tuple[ImageFacts, Image.Image | None]:
    """Open and decode one image fully, once: its facts, and the RGB picture where the status is OK. Never raises.

    `name` is what the bytes were called, to note a wrong extension; a Path brings its own.
    """
    facts, data = ImageFacts(Status.OK), b""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = _read(content)
            facts = replace(facts, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
            opened = _open(data)
            facts = replace(facts, format=opened.format or "", width=opened.width, height=opened.height)
            picture = _decode(opened)
            note = _note(opened, name or (content.name if isinstance(content, Path) else ""))
            return replace(facts, **_hashes(picture), note=note), picture
        except Exception as error:
            status, words = _explain(error)
            if status == Status.ERROR and _is_short(data):
                status, words = Status.TRUNCATED, f"the file breaks off ({words})"
            return replace(facts, status=status, error=words), None


def _hashes(picture: Image.Image) -> dict[str, object]:
    """The facts that are read off the pixels."""
    pixels = hashlib.blake2b(f"{picture.width}x{picture.height}:".encode(), digest_size=16)
    pixels.update(np.asarray(picture))
    size = {"width": picture.width, "height": picture.height}
    return {**size, "pixel_digest": pixels.hexdigest(), "phash": phash(picture)}


def phash(picture: Image.Image) -> int:
    """The 64-bit perceptual hash: which of the 8 × 8 lowest frequencies of the 32 × 32 grey picture pass their median.

    Unsigned; the bits row by row, the first frequency highest, as in the ImageHash library.
    """
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    low = (_COSINES @ grey @ _COSINES.T).round(3)  # in a flat picture the rest is noise of the arithmetic
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


_COSINES = np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1))  # (8, 32): the DCT's lowest rows


def _read(content: Path | bytes) -> bytes:
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
    if n > MAX_BYTES:
        raise _Trouble(Status.TOO_LARGE, f"{n:,} bytes; the limit is {MAX_BYTES:,}")


def _open(data: bytes) -> Image.Image:
    if foreign := _foreign(data):
        raise _Trouble(*foreign)
    try:
        picture = Image.open(BytesIO(data), formats=_formats())
    except UnidentifiedImageError:
        raise _Trouble(*_unidentified(data)) from None
    if picture.width * picture.height > MAX_PIXELS:
        size = f"{picture.width} × {picture.height}"
        raise _Trouble(Status.TOO_LARGE, f"{size} pixels; the limit is {MAX_PIXELS:,} pixels")
    return picture


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    usual = ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF"]  # asked first: they are known by their first bytes
    return (*(name for name in usual if name in Image.OPEN), *sorted(set(Image.OPEN) - REFUSED - set(usual)))


def _decode(opened: Image.Image) -> Image.Image:
    """All pixels of the first frame, upright, as RGB."""
    opened.load()
    picture = to_rgb(opened)
    if 0 in picture.size:
        raise _Trouble(Status.ERROR, "a picture without pixels")
    try:
        turn = _TURNS.get(opened.getexif().get(0x0112))  # EXIF orientation
    except Exception:  # EXIF is often broken where the picture is whole
        turn = None
    return picture if turn is None else picture.transpose(turn)


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
    wide = values.dtype.kind == "u"
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = values.min(), values.max()
    if wide:
        low, high = 0, 65535
    elif low < 0 or high > 65535:
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


# How a file begins → what it is. Pages and archives are no images; drawings and exotic formats are, but not for us.
_NO_IMAGE = {
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"<head": "an HTML page",
    b"<body": "an HTML page",
    b"<script": "an HTML page",
    b"<?php": "a PHP script",
    b"<?xml": "an XML document",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x1aE\xdf\xa3": "a video",
    b"FLV\x01": "a video",
    b"OggS": "a sound or video",
    b"ID3": "a sound",
    b"\x7fELF": "a program",
    b"SQLite format 3": "a database",
    b"PAR1": "a Parquet table",
}
_REFUSED = {
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript drawing",
    b"\xc5\xd0\xd3\xc6": "a PostScript drawing",
    b"<svg": "an SVG drawing",
    b"\xd7\xcd\xc6\x9a": "a Windows metafile (WMF)",
    b"\x89HDF": "an HDF5 file",
    b"GRIB": "a GRIB file",
    b"BUFR": "a BUFR file",
    b"\x00\x00\x01\xb3": "an MPEG video",
    b"\xff\x0a": "a JPEG XL image",
    b"\x00\x00\x00\x0cJXL ": "a JPEG XL image",
    b"II\xbc": "a JPEG XR image",
}
_IMAGES = {
    b"\xff\xd8\xff": ("JPEG", b"\xff\xd9"),
    b"\x89PNG\r\n": ("PNG", b"IEND\xaeB`\x82"),
    b"GIF8": ("GIF", b";"),
    b"RIFF": ("WEBP", b""),
    b"BM": ("BMP", b""),
    b"II*\0": ("TIFF", b""),
    b"MM\0*": ("TIFF", b""),
    b"8BPS": ("PSD", b""),
    b"\x00\x00\x00\x0cjP  ": ("JPEG 2000", b""),
    b"\xff\x4f\xff\x51": ("JPEG 2000", b"\xff\xd9"),
}


def _foreign(data: bytes) -> tuple[Status, str] | None:
    """What is known from its first bytes to be nothing that Pillow should open."""
    if data.startswith(tuple(_IMAGES)):
        return None
    head = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip()
    page = head.lower()
    if page.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in page:
        return Status.UNSUPPORTED, "an SVG drawing"
    if page.startswith(b"<!--") and b"<html" in page:
        return Status.NOT_AN_IMAGE, "an HTML page"
    if head[40:44] == b" EMF" and head.startswith(b"\x01\0\0\0"):
        return Status.UNSUPPORTED, "a Windows metafile (EMF)"
    if data[4:8] == b"ftyp" and data[8:12] not in (b"avif", b"avis", b"jp2 ", b"mif1", b"miaf"):
        heif = data[8:11] in (b"hei", b"hev")
        return (Status.UNSUPPORTED, "a HEIC image") if heif else (Status.NOT_AN_IMAGE, "a video")
    for status, signs in ((Status.NOT_AN_IMAGE, _NO_IMAGE), (Status.UNSUPPORTED, _REFUSED)):
        for sign, words in signs.items():
            if data.startswith(sign) or page.startswith(sign):
                return status, words
    return None


def _unidentified(data: bytes) -> tuple[Status, str]:
    """Pillow knows no format for this file: is it a damaged image or something else?"""
    if data[4:8] == b"ftyp":
        return Status.UNSUPPORTED, "a HEIC or AVIF image that this Pillow cannot read"
    for sign, (name, end) in _IMAGES.items():
        if data.startswith(sign):
            if not data.rstrip(b"\0").endswith(end):
                return Status.TRUNCATED, f"the {name} breaks off in its header"
            return Status.ERROR, f"a damaged {name}: its header cannot be read"
    if not data.strip(b"\0"):
        return Status.NOT_AN_IMAGE, "nothing but zero bytes"
    try:
        text = data[:4096].decode("utf-8", "strict" if len(data) <= 4096 else "ignore")
    except UnicodeDecodeError:
        text = "\0"
    if all(letter.isprintable() or letter.isspace() for letter in text):
        return Status.NOT_AN_IMAGE, "JSON" if text.lstrip()[:1] in ("{", "[") else "a text"
    return Status.NOT_AN_IMAGE, f"no known image format (begins with {data[:8].hex(' ')})"


def _is_short(data: bytes) -> bool:
    """Does the file itself say that it is longer than it is? (For formats whose decoders do not say so.)"""
    if data.startswith(b"RIFF"):
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if not data.startswith((b"II*\0", b"MM\0*")):
        return False
    if int.from_bytes(data[4:8], "little" if data.startswith(b"II") else "big") >= len(data):
        return True  # where the list of parts should begin
    try:
        tags = Image.open(BytesIO(data), formats=("TIFF",)).tag_v2
        starts, sizes = (tags.get(strips) or tags.get(tiles) for strips, tiles in ((273, 324), (279, 325)))
        return any(start + size > len(data) for start, size in zip(starts, sizes, strict=True))
    except Exception:
        return False


# --- the decoded cache ----------------------------------------------------------------------------------------------

_PLACE = np.dtype([("file", "<i4"), ("side", "<i4"), ("offset", "<i8")])  # side 0: no pixels


class PixelCache:
    """The centre squares of all readable images, decoded once: uint8 RGB in memory-mapped files.

    `pixels-<worker>.bin` hold the squares one after the other, `index.npy` says where each sample's lies.
    """

    def __init__(self, folder: Path, index: np.ndarray):
        self.folder, self.index = Path(folder), index
        self._maps: dict[int, np.memmap] = {}

    @classmethod
    def open(cls, folder: Path) -> "PixelCache":
        """The cache that an earlier process saved in `folder`. Raises RunError where there is none."""
        try:
            return cls(folder, np.load(Path(folder) / "index.npy"))
        except (OSError, ValueError) as error:
            raise RunError(f"No complete pixel cache in {folder} ({error}). Inspect the crawl again.") from None

    def __reduce__(self) -> tuple:
        return PixelCache, (self.folder, self.index)  # memory maps do not travel to other processes

    def save(self) -> None:
        """Write the index, whole or not at all."""
        half = self.folder / "index.npy.tmp"
        with half.open("wb") as file:
            np.save(file, self.index)
        half.replace(self.folder / "index.npy")

    def side(self, i: int) -> int:
        """The stored side of sample i in pixels; 0 where it has none."""
        return int(self.index["side"][i]) if 0 <= i < len(self.index) else 0

    def load(self, indices: Sequence[int], size: int) -> np.ndarray:
        """(b, size, size, 3) uint8: the squares of these samples, resized where they are stored in another size."""
        batch = np.empty((len(indices), size, size, 3), np.uint8)
        for k, i in enumerate(indices):
            square = self._square(int(i))
            if len(square) != size:
                square = resized(square, size)
            batch[k] = square
        return batch

    def _square(self, i: int) -> np.ndarray:
        side = self.side(i)
        if not side:
            raise KeyError(f"sample {i} has no pixels")
        file, offset = int(self.index["file"][i]), int(self.index["offset"][i])
        if file not in self._maps:
            self._maps[file] = np.memmap(_pixel_file(self.folder, file), np.uint8, "r")
        return self._maps[file][offset : offset + side * side * 3].reshape(side, side, 3)


def _pixel_file(folder: Path, number: int) -> Path:
    return folder / f"pixels-{number:03d}.bin"


def resized(square: np.ndarray, side_px: int) -> np.ndarray:
    """(s, s, 3) uint8 in another size."""
    return np.asarray(Image.fromarray(square).resize((side_px, side_px), Image.Resampling.LANCZOS))


def centre_square(picture: Image.Image, size_px: int) -> np.ndarray:
    """(s, s, 3) uint8, s = min(size_px, shorter side): the middle of the picture."""
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    box = (left, top, left + short, top + short)
    side = min(size_px, short)
    if side == short:
        return np.asarray(picture.crop(box))
    return np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0))


# --- all files ------------------------------------------------------------------------------------------------------


def inspect(
    contents: Iterable[tuple[int, Path | bytes]],
    total: int,
    cache_folder: Path | None,
    size_px: int,
    workers: int,
    progress: Progress,
) -> tuple[dict[int, ImageFacts], PixelCache | None]:
    """Inspect all files on `workers` processes (0: in this one): facts by sample index, and their pixels.

    No pixels are kept where `cache_folder` is None. What the folder holds from before is replaced. A file that crashes
    or hangs its decoder gets Status.ERROR. Raises MachineError where the cache cannot be written.
    """
    if cache_folder is not None:
        _clear(cache_folder)
    facts: dict[int, ImageFacts] = {}
    places: dict[int, tuple[int, int, int]] = {}
    start = partial(_inspector, cache_folder, size_px)
    for done, (i, answer) in enumerate(run(start, contents, workers), 1):
        if isinstance(answer, Failed):
            facts[i] = ImageFacts(Status.ERROR, answer.words)
        elif isinstance(answer, MachineError):
            raise answer
        else:
            facts[i], place = answer
            if place:
                places[i] = place
        progress("inspect", done, total)
    if cache_folder is None:
        return facts, None
    index = np.zeros(max(facts, default=-1) + 1, _PLACE)
    for i, place in places.items():
        index[i] = place
    pixels = PixelCache(cache_folder, index)
    pixels.save()
    return facts, pixels


def _clear(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("pixels-*.bin"), *folder.glob("index.npy*")):
        old.unlink()


def _inspector(cache_folder: Path | None, size_px: int, number: int) -> Callable[[Path | bytes], object]:
    """What one process does to one file: (facts, place in the cache), or the MachineError that stops the whole."""
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # its complaints are told once, as the status

    def inspect_and_keep(content: Path | bytes) -> object:
        with quiet():
            facts, picture = inspect_one(content)
        if picture is None or cache_folder is None:
            return facts, None
        square = centre_square(picture, size_px)
        try:
            with _pixel_file(cache_folder, number).open("ab") as file:
                offset = file.tell()
                file.write(np.ascontiguousarray(square).data)
        except OSError as error:
            return MachineError(f"The decoded images cannot be kept in {cache_folder}: {error}. Free some space there.")
        return facts, (number, len(square), offset)

    return inspect_and_keep


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing reaches file descriptor 2: C libraries write their complaints there, thousands of lines in bad files."""
    try:
        before = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
