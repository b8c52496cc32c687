"""A tree with one folder per class, as torchvision's ImageFolder and many other loaders read it.

    out/<label>/<name>     final labels; names as in the crawl
    out/_ood/<name>        images of no class, if such rows are exported
    out/_unusable/<name>   images that could not be used, if such rows are exported
    out/labels.csv         the table of labels, its paths relative to `out`: the labels and names that had to change
                           can be found again (`cleanweb fit out --labels out/labels.csv` reads it)

Names are safe on Linux, macOS and Windows, and no two of them differ by case alone. A label that had to change, or
whose name is taken, carries eight digits of its SHA-256; an image whose name is taken those of its sample_id. Loaders
choose images by their extension: where it is not an image's (.ashx, .php, none) it becomes that of the decoded format.

An image that cannot be read is left out, and not counted as written. Hard and symbolic links are links to the crawl:
whoever edits an image behind one edits the crawl.
"""

import errno
import hashlib
import logging
import re
import shutil
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cleanweb import writers
from cleanweb.errors import CleanwebError, UsageError

if TYPE_CHECKING:
    import pandas as pd

SUFFIX = ""

_NAME_BYTES = 100  # of a folder or of a file without its extension; file systems allow 255, whole paths on Windows 260

_RESERVED = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    device + digit for device in ("com", "lpt") for digit in "0123456789¹²³"
}  # Windows opens a device where a name is one of these, whatever its extension

# What torchvision's ImageFolder and Hugging Face's imagefolder both or either load.
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif"}

_SUFFIX_OF = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2"}  # else the format's own name

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # not the image's fault

log = logging.getLogger(__name__)


class _Image(NamedTuple):
    sample_id: str
    path: str
    format: str | None
    final_label: str | None
    verdict: str
    file: str | None
    row_in_file: int | None


def write(rows: "pd.DataFrame", out: Path, link: str, read_bytes: writers.ReadBytes) -> int:
    """Write the images of rows of the manifest to the folder `out`; returns how many could be read."""
    images = [_Image(*row) for row in zip(*(writers.values(rows[name]) for name in _Image._fields), strict=True)]
    places = _places(images)
    with writers.draft(out, folder=True) as root:
        root.mkdir()
        written = [_put(image, root / place, link, read_bytes) for image, place in zip(images, places, strict=True)]
        with (root / "labels.csv").open("x", encoding="utf-8", newline="") as stream:
            writers.to_csv(writers.table(rows.assign(path=places).loc[written]), stream)
    if not all(written):
        log.warning("left out %d of %d images: they could not be read", written.count(False), len(written))
    return sum(written)


def _places(images: list[_Image]) -> list[str]:
    """Where each image goes, relative to the export, posix; no two the same on any file system."""
    folders = _folders({image.final_label for image in images if image.final_label is not None})
    taken: set[str] = set()
    places = []
    for image in images:
        folder = f"_{image.verdict}" if image.final_label is None else folders[image.final_label]
        stem, suffix = _file_name(image)
        places.append(_claim((f"{folder}/{name}{suffix}" for name in _names(stem, image.sample_id)), taken))
    return places


def _folders(labels: set[str]) -> dict[str, str]:
    """A folder name for each label, the same whatever the order."""
    taken = {"_ood", "_unusable", "labels.csv"}
    folders = {}
    # A label that is a good name as it is has the first claim to it.
    for label in sorted(labels, key=lambda label: (_safe(label) != label, label)):
        plain, *marked = _names(_safe(label), label)
        folders[label] = _claim([plain, *marked] if plain == label else marked, taken)
    return folders


def _claim(names: Iterable[str], taken: set[str]) -> str:
    """The first of `names` that is free; it is taken then."""
    name = next(name for name in names if _key(name) not in taken)
    taken.add(_key(name))
    return name


def _names(name: str, identity: str) -> Iterator[str]:
    """`name`, then `name` with more and more to tell it from its likes (8 digits are not enough for a million)."""
    digits = hashlib.sha256(identity.encode()).hexdigest()
    yield name
    yield from (f"{_cut(name, _NAME_BYTES - 1 - n)}-{digits[:n]}" for n in (8, 16, 64))


def _file_name(image: _Image) -> tuple[str, str]:
    """Stem and extension, safe, the extension an image's where the format is known."""
    name = image.path.rpartition("/")[2]
    stem, dot, extension = name.rpartition(".")
    suffix = dot + extension
    if suffix.lower() in _IMAGE_SUFFIXES:
        return _safe(stem), suffix
    right = _SUFFIX_OF.get(image.format, f".{image.format.lower()}") if image.format else ""
    if right and stem and re.fullmatch(r"[A-Za-z][A-Za-z0-9]{1,4}", extension):  # not what follows "approx. "
        name = stem
    return _safe(name), right


def _safe(text: str) -> str:
    """`text` as a name that Linux, macOS and Windows take, that loaders do not skip as hidden, and that is no path."""
    name = unicodedata.normalize("NFC", text)
    # Not printable: control characters, marks of direction, odd spaces, what Unicode (and so APFS) does not know.
    name = "".join(c if c.isprintable() and c not in '<>:"/\\|?*' else "_" for c in name)
    name = _cut(name.strip(), _NAME_BYTES - 1)
    name = re.sub(r"^(\.|__)[._]*", "_", name) or "_"
    return f"_{name}" if name.partition(".")[0].rstrip().lower() in _RESERVED else name


def _cut(name: str, n_bytes: int) -> str:
    """At most n_bytes of UTF-8, whole characters, ending in neither dot nor space (Windows drops those)."""
    return name.encode()[:n_bytes].decode(errors="ignore").rstrip(". ")


def _key(name: str) -> str:
    """Equal for names that some file system holds equal: macOS and Windows ignore case, macOS how an accent is put."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _put(image: _Image, target: Path, link: str, read_bytes: writers.ReadBytes) -> bool:
    """Copy or link one image; False where it cannot be read."""
    embedded = image.row_in_file is not None
    try:
        if embedded:
            content = read_bytes(image.file, int(image.row_in_file))
        else:
            source = _source(image.file or "")
            if not source.is_file():
                raise FileNotFoundError("no such file")
            source.open("rb").close()
    except (OSError, CleanwebError) as error:
        log.info("%s: %s", image.file, error)
        return False
    target.parent.mkdir(exist_ok=True)
    if embedded:
        target.write_bytes(content)
        return True
    return _copy(source, target) if link == "copy" else _link(source, target, link)


def _source(file: str) -> Path:
    """The file; the manifest has escapes for what is not UTF-8 in its name."""
    if Path(file).exists():
        return Path(file)
    return Path(re.sub(r"\\udc([89a-f][0-9a-f])", lambda byte: chr(0xDC00 + int(byte[1], 16)), file))


def _copy(source: Path, target: Path) -> bool:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        if error.errno in _FULL:
            raise
        target.unlink(missing_ok=True)
        log.info("%s: %s", source, error)
        return False
    return True


def _link(source: Path, target: Path, link: str) -> bool:
    try:
        if link == "symlink":
            target.symlink_to(source)
        else:
            target.hardlink_to(source.resolve())  # a hard link to a symbolic link would be one too
    except OSError as error:
        raise UsageError(f"cannot {link} {source} into the export ({error.strerror}); use --link copy") from error
    return True
