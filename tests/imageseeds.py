"""A small whole picture of every format that Pillow reads and we let it, made here: what the fuzzer damages."""

import gzip
import io
import struct
import warnings

import numpy as np
from PIL import Image, PngImagePlugin

SIDE = 24


def picture(mode: str = "RGB", seed: int = 0, side: int = SIDE) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 4), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).convert(mode)


def saved(format: str, mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture(mode).save(out, format, **options)
    return out.getvalue()


def seeds() -> dict[str, bytes]:
    """name → content; the name begins with the format as Pillow calls it."""
    return _written() | _by_hand()


def _written() -> dict[str, bytes]:
    """Formats that this Pillow can write, in the modes and with the extras that have code of their own."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "<b>a description</b>"
    more = [picture("RGB", seed) for seed in (1, 2)]
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "words " * 50, zip=True)
    text.add_itxt("Title", "Bild", "de", "Titel")
    film = {"save_all": True, "append_images": more}
    wanted = {
        "JPEG": [("RGB", {"exif": exif, "icc_profile": b"x" * 200}), ("L", {"progressive": True}), ("CMYK", {}),
                 ("RGB", {"subsampling": 2, "restart_marker_rows": 1, "comment": b"a comment"})],
        "MPO": [("RGB", film)],
        "PNG": [("RGB", {"pnginfo": text, "exif": exif, "icc_profile": b"x" * 200}), ("P", {"transparency": 0}),
                ("RGBA", {}), ("I;16", {}), ("1", {}), ("RGB", film), ("LA", {})],
        "GIF": [("P", {"transparency": 1}), ("RGB", film | {"duration": 10, "loop": 0, "comment": b"a comment"}),
                ("L", {"interlace": True})],
        "WEBP": [("RGB", {}), ("RGBA", {"lossless": True, "exif": exif}), ("RGB", film), ("RGBA", {"quality": 30})],
        "AVIF": [("RGB", {"exif": exif}), ("RGBA", {}), ("RGB", film)],
        "BMP": [("RGB", {}), ("P", {}), ("1", {}), ("RGBA", {})],
        "DIB": [("RGB", {})],
        "TIFF": [("RGB", {"compression": c}) for c in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg", "webp",
                                                       "zstd", "lzma")]
                + [("1", {"compression": "group4"}), ("1", {"compression": "group3"}), ("CMYK", {}), ("P", {}),
                   ("RGBA", {"exif": exif}), ("F", {}), ("I;16", {}), ("LAB", {}), ("YCbCr", {"compression": "jpeg"}),
                   ("RGB", film), ("RGB", {"big_tiff": True})],
        "JPEG2000": [("RGB", {}), ("L", {"no_jp2": True}), ("RGBA", {"irreversible": True})],
        "ICO": [("RGBA", {}), ("RGB", {"bitmap_format": "bmp"})],
        "ICNS": [("RGBA", {})],
        "PPM": [("RGB", {}), ("L", {}), ("1", {}), ("I", {}), ("F", {"format": "PFM"})],
        "TGA": [("RGB", {"compression": "tga_rle"}), ("P", {}), ("LA", {})],
        "PCX": [("RGB", {}), ("P", {}), ("1", {})],
        "SGI": [("RGB", {}), ("L", {"bpc": 2})],
        "DDS": [("RGBA", {}), ("RGBA", {"pixel_format": "DXT1"}), ("RGBA", {"pixel_format": "DXT5"}),
                ("RGB", {"pixel_format": "BC5"})],
        "BLP": [("P", {}), ("P", {"blp_version": "BLP1"})],
        "QOI": [("RGB", {}), ("RGBA", {})],
        "IM": [("RGB", {}), ("P", {}), ("F", {})],
        "MSP": [("1", {})],
        "SPIDER": [("F", {})],
        "XBM": [("1", {})],
    }  # fmt: skip
    found = {}
    for format, variants in wanted.items():
        for i, (mode, options) in enumerate(variants):
            try:
                found[f"{format}-{i}"] = saved(format, **({"mode": mode} | options) if "format" not in options else {})
            except (KeyError, OSError, ValueError, TypeError):
                continue  # not with this Pillow, or not with the libraries it was built with
    return found


def _by_hand() -> dict[str, bytes]:
    """Formats that Pillow only reads."""
    n = SIDE
    grey, rgb = picture("L").tobytes(), picture().tobytes()
    card = lambda key, value: f"{key:<8}= {value:>20}".ljust(80).encode()  # noqa: E731
    header = [card("SIMPLE", "T"), card("BITPIX", 8), card("NAXIS", 2), card("NAXIS1", n), card("NAXIS2", n)]
    fits = b"".join(header) + b"END".ljust(80)
    zipped = [card("SIMPLE", "T"), card("BITPIX", 8), card("NAXIS", 0), b"END".ljust(80)]
    table = [card("XTENSION", "'BINTABLE'").replace(b" " * 10 + b"'BINTABLE'", b"'BINTABLE'".ljust(20)),
             card("BITPIX", 8), card("NAXIS", 2), card("NAXIS1", 8), card("NAXIS2", 1), card("ZIMAGE", "T"),
             b"ZCMPTYPE= 'GZIP_1  '".ljust(80), card("ZBITPIX", 8), card("ZNAXIS", 2), card("ZNAXIS1", n),
             card("ZNAXIS2", n), b"END".ljust(80)]  # fmt: skip
    fits_gzip = b"".join(zipped).ljust(2880) + b"".join(table).ljust(2880) + bytes(8) + gzip.compress(grey * 4, mtime=0)
    bitmap = saved("BMP")
    info = bitmap[14:54][:8] + struct.pack("<i", 2 * n) + bitmap[14:54][12:]
    cur = struct.pack("<HHH", 0, 2, 1) + struct.pack("<BBBBHHII", n, n, 0, 0, 0, 0, 40 + len(rgb), 22) + info
    frame = struct.pack("<IHH8x", 16 + 6 + 2 + 8, 0xF1FA, 1) + struct.pack("<IH", 16, 13) + bytes(10)
    mcidas = [0, 4, *[0] * 6, n, n, 1, *[0] * 2, 1, *[0] * 19, 256, *[0] * 30]
    psd = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, n, n, 8, 3) + bytes(12) + bytes(2) + rgb
    pixar = bytearray(1024)
    pixar[:4], pixar[416:420], pixar[424:428] = b"\200\350\0\0", struct.pack("<HH", n, n), struct.pack("<HH", 14, 2)
    xpm = ["/* XPM */", "static char *x[] = {", f'"{n} {n} 2 1",', '"a c #ff0000",', '"b c None",', "/* pixels */"]
    xpm += [f'"{"ab" * (n // 2)}",' for _ in range(n)] + ["};"]
    pcd = bytearray(768 * 512 * 3 // 2 + 96 * 2048)
    pcd[2048:2052] = b"PCD_"
    return {
        "CUR": cur + rgb + bytes(n * 4),
        "DCX": struct.pack("<II", 0x3ADE68B1, 12) + bytes(4) + saved("PCX"),
        "FITS-raw": fits.ljust(2880) + grey,
        "FITS-gzip": fits_gzip,
        "FLI": struct.pack("<IHHHHHH", 128 + len(frame), 0xAF12, 1, n, n, 8, 3).ljust(128, b"\0") + frame,
        "FTEX": b"FTEX" + struct.pack("<i2iiiii", 1, n, n, 1, 1, 1, 32) + struct.pack("<i", len(rgb)) + rgb,
        "GBR": struct.pack(">IIIII", 33, 2, n, n, 1) + b"GIMP" + struct.pack(">I", 1) + b"name\0" + grey,
        "IMT": b"*IMT\n*1 1\n" + f"pixel n8\nwidth {n}\nheight {n}\n".encode() + b"\x0c" + grey,
        "MCIDAS": struct.pack("!64i", *mcidas[:64]) + grey,
        "PCD": bytes(pcd),
        "PIXAR": bytes(pixar) + rgb,
        "PSD": psd,
        "SUN-raw": struct.pack(">8I", 0x59A66A95, n, n, 24, len(rgb), 1, 0, 0) + rgb,
        "SUN-rle": struct.pack(">8I", 0x59A66A95, n, n, 8, n * n, 2, 0, 0) + b"\x80\xff\x07" * (n * n // 256 + 1),
        "XPM": "\n".join(xpm).encode(),
        "XVThumb": f"P7 332\n#END_OF_COMMENTS\n{n} {n} 255\n".encode() + grey,
    }
