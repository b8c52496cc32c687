"""Names of files and folders that Linux, macOS and Windows all take, made of any text, no two the same on any of them.

A name that had to change, or that is taken, carries eight digits of the SHA-256 of what it stands for.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator

NAME_BYTES = 100  # of a folder or of a file without its extension; file systems allow 255, whole paths on Windows 260

_RESERVED = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    device + digit for device in ("com", "lpt") for digit in "0123456789¹²³"
}  # Windows opens a device where a name is one of these, whatever its extension

TORCHVISION_SUFFIXES = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}  # its ImageFolder's
IMAGE_SUFFIXES = TORCHVISION_SUFFIXES | {".gif", ".pbm", ".avif"}  # and more that Hugging Face's imagefolder loads

_SUFFIX_OF = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2"}  # else the format's own name


class Taken:
    """The names that are taken already."""

    def __init__(self, names: Iterable[str] = ()):
        self._keys = {key(name) for name in names}

    def claim(self, names: Iterable[str]) -> str:
        """The first of `names` that is free; it is taken then."""
        name = next(name for name in names if key(name) not in self._keys)
        self._keys.add(key(name))
        return name


def folders(texts: Iterable[str], reserved: Iterable[str] = ()) -> dict[str, str]:
    """A folder name for each text, the same whatever their order."""
    taken = Taken(reserved)
    found = {}
    # A text that is a good name as it is has the first claim to it.
    for text in sorted(set(texts), key=lambda text: (safe(text) != text, text)):
        plain, *marked = candidates(safe(text), text)
        found[text] = taken.claim([plain, *marked] if plain == text else marked)
    return found


def candidates(name: str, identity: str) -> Iterator[str]:
    """`name`, then `name` with more and more to tell it from its likes (8 digits are not enough for a million)."""
    digits = hashlib.sha256(identity.encode()).hexdigest()
    yield name
    yield from (f"{_cut(name, NAME_BYTES - 1 - n)}-{digits[:n]}" for n in (8, 16, 64))


def image_name(path: str, format: str | None) -> tuple[str, str]:
    """Stem and extension, safe, of an image of that path, decoded as that format.

    Loaders choose images by their extension: where it is none of an image (.ashx, .php, none) it becomes that of the
    format, if that is known.
    """
    name = path.rpartition("/")[2]
    stem, dot, extension = name.rpartition(".")
    suffix = dot + extension
    if suffix.lower() in IMAGE_SUFFIXES:
        return safe(stem), suffix
    right = image_suffix(format)
    if right and stem and re.fullmatch(r"[A-Za-z][A-Za-z0-9]{1,4}", extension):  # not what follows "approx. "
        name = stem
    return safe(name), right


def image_suffix(format: str | None) -> str:
    """The extension of a decoded format, as .jpg; nothing where it is unknown."""
    return _SUFFIX_OF.get(format, f".{safe(format.lower())}") if format else ""


def numbered(number: int, format: str | None) -> str:
    """A name without a word of the crawl's: 0000012.jpg."""
    return f"{number:07d}{image_suffix(format) or '.bin'}"


def safe(text: str) -> str:
    """`text` as a name that Linux, macOS and Windows take, that loaders do not skip as hidden, and that is no path."""
    name = unicodedata.normalize("NFC", text)
    # Not printable: control characters, marks of direction, odd spaces, what Unicode (and so APFS) does not know.
    name = "".join(c if c.isprintable() and c not in '<>:"/\\|?*' else "_" for c in name)
    name = _cut(name.strip(), NAME_BYTES - 1)
    name = re.sub(r"^(\.|__)[._]*", "_", name) or "_"
    return f"_{name}" if name.partition(".")[0].rstrip().lower() in _RESERVED else name


def key(name: str) -> str:
    """Equal for names that some file system holds equal: macOS and Windows ignore case, macOS how an accent is put."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _cut(name: str, n_bytes: int) -> str:
    """At most n_bytes of UTF-8, whole characters, ending in neither dot nor space (Windows drops those)."""
    return name.encode()[:n_bytes].decode(errors="ignore").rstrip(". ")
