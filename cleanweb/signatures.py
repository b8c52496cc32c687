"""What a file is, as far as its own bytes tell: what Pillow should never open, what it could not, what breaks off."""

from io import BytesIO

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from cleanweb.records import Status

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


def foreign(data: bytes) -> tuple[Status, str] | None:
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


def unidentified(data: bytes) -> tuple[Status, str]:
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


def is_short(data: bytes) -> bool:
    """Does the file itself say that it is longer than it is? (For formats whose decoders do not say so.)"""
    if data.startswith(b"RIFF"):
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if not data.startswith((b"II*\0", b"MM\0*")):
        return False
    if int.from_bytes(data[4:8], "little" if data.startswith(b"II") else "big") >= len(data):
        return True  # where the list of parts should begin
    try:
        picture = Image.open(BytesIO(data), formats=("TIFF",))
        assert isinstance(picture, TiffImageFile)
        tags = picture.tag_v2
        starts, sizes = (tags.get(strips) or tags[tiles] for strips, tiles in ((273, 324), (279, 325)))
        return any(start + size > len(data) for start, size in zip(starts, sizes, strict=True))
    except Exception:
        return False
