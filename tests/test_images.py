"""One file → exactly one status, in words; the right pixels; nothing raised, nothing printed, nothing run."""

import io
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cleanweb import images
from cleanweb.images import inspect_one
from cleanweb.pixelcache import centre_square
from cleanweb.records import ImageFacts, Status

NASTY = Path(__file__).parents[2] / "shared" / "data" / "nasty"


def scene(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """A smooth colourful picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, format: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


def seen(content: bytes, name: str = "") -> np.ndarray:
    facts, pixels = inspect_one(content, name)
    assert facts.status == Status.OK, facts
    assert pixels.shape == (facts.height, facts.width, 3)
    return pixels


# --- statuses -------------------------------------------------------------------------------------------------------


def status(content: bytes | Path) -> tuple[Status, str]:
    facts, pixels = inspect_one(content)
    assert (pixels is None) == (facts.status != Status.OK)
    assert bool(facts.error) == (facts.status != Status.OK)
    assert "\n" not in facts.error
    return facts.status, facts.error


def test_every_status_that_a_file_can_have_is_reached(tmp_path, monkeypatch):
    jpeg = encoded(scene(), "JPEG")
    monkeypatch.setattr(images, "MAX_PIXELS", 2000)
    reached = {
        status(encoded(scene(40, 40)))[0],
        status(tmp_path / "gone.jpg")[0],
        status(b"")[0],
        status(b"<html><body>404</body></html>")[0],
        status(b"%PDF-1.7")[0],
        status(encoded(scene(50, 50)))[0],
        status(b"GIF89a\0\0\0\0;")[0],
    }
    reader_finds = {Status.UNLABELED, Status.UNLISTED, Status.REPEATED, Status.CONFLICTING, Status.OUTSIDE,
                        Status.NOT_DOWNLOADED}  # fmt: skip
    monkeypatch.undo()
    reached |= {status(jpeg[: len(jpeg) // 2])[0]}
    assert reached == set(Status) - reader_finds


@pytest.mark.parametrize(
    ("content", "expected", "words"),
    [
        (b"\xef\xbb\xbf \n<!DOCTYPE html><p>not found", Status.NOT_AN_IMAGE, "HTML page"),
        (b'<?xml version="1.0"?><Error>denied</Error>', Status.NOT_AN_IMAGE, "XML"),
        (b'{"error": "not found"}', Status.NOT_AN_IMAGE, "JSON"),
        (b"not found", Status.NOT_AN_IMAGE, "text"),
        (b"PK\x03\x04" + bytes(60), Status.NOT_AN_IMAGE, "ZIP"),
        (b"\0\0\0\x18ftypmp42" + bytes(60), Status.NOT_AN_IMAGE, "video"),
        (bytes(500), Status.NOT_AN_IMAGE, "zero bytes"),
        (bytes(range(128, 256)), Status.NOT_AN_IMAGE, "80 81 82"),
        (b'<?xml version="1.0"?><svg xmlns="x"/>', Status.UNSUPPORTED, "SVG"),
        (b"<svg/>", Status.UNSUPPORTED, "SVG"),
        (b"\0\0\0\x18ftypheic" + bytes(60), Status.UNSUPPORTED, "HEIC"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", Status.UNSUPPORTED, "PostScript"),
    ],
)
def test_what_is_no_image_is_called_by_name(content, expected, words):
    found, error = status(content)
    assert found == expected
    assert words in error


def test_no_program_is_run(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(os, "system", None)
    for start in (b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.4\n", b"\xd7\xcd\xc6\x9a", b"\x89HDF\r\n\x1a\n", b"GRIB"):
        assert status(start + bytes(2000))[0] == Status.UNSUPPORTED
    assert not set(images._formats()) & images.REFUSED


def test_a_decompression_bomb_is_not_decoded():
    black = Image.new("1", (20_000, 10_000))
    content = encoded(black)
    assert len(content) < 100_000
    assert status(content)[0] == Status.TOO_LARGE


def test_too_many_bytes_are_not_read(tmp_path):
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(images.MOST_BYTES + 1)
    facts, _ = inspect_one(tmp_path / "huge.jpg")
    assert facts.status == Status.TOO_LARGE


def test_what_is_no_file(tmp_path):
    assert status(tmp_path)[0] == Status.ERROR
    os.mkfifo(tmp_path / "pipe.jpg")
    assert status(tmp_path / "pipe.jpg")[0] == Status.ERROR


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("too deep"), OSError("a\nb"), KeyError(3)])
def test_any_exception_is_a_status(monkeypatch, error):
    def fail(_):
        raise error

    monkeypatch.setattr(images, "_decode", fail)
    assert status(encoded(scene()))[0] == Status.ERROR


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_file_cut_anywhere_is_never_taken_for_whole(format):
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    for options in [{}, {"progressive": True}] if format == "JPEG" else [{}]:
        whole = encoded(Image.fromarray(noise), format, **options)
        truth, cuts = seen(whole), range(12, len(whole) - 16, max(1, len(whole) // 40))
        found = []
        for cut in cuts:
            facts, pixels = inspect_one(whole[:cut])
            assert pixels is None or np.array_equal(pixels, truth)
            found.append(facts.status)
        assert found.count(Status.TRUNCATED) > 0.9 * len(found)


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=400), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0"])
)
def test_no_bytes_raise(tail, start):
    with images.quiet():
        assert isinstance(inspect_one(start + tail)[0], ImageFacts)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF"]), st.integers(0, 2**32), st.integers(1, 8))
def test_no_damage_raises(format, seed, n):
    random, content = np.random.default_rng(seed), bytearray(encoded(scene(24, 24), format))
    for at in random.integers(0, len(content), n):
        content[at] = random.integers(256)
    with images.quiet():
        assert isinstance(inspect_one(bytes(content))[0], ImageFacts)


# --- pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1"])
def test_modes_become_the_rgb_that_pillow_shows(mode):
    picture = scene().convert(mode)
    assert np.array_equal(seen(encoded(picture)), np.asarray(picture.convert("RGB")))


def test_cmyk_jpeg_is_not_inverted():
    shown = seen(encoded(Image.new("RGB", (16, 16), (200, 40, 40)).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(shown.astype(int) - (200, 40, 40)).max() < 8


def test_16_bits_are_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for format in ("PNG", "TIFF"):
        shown = seen(encoded(Image.fromarray(ramp), format))
        assert np.abs(shown[..., 0] - ramp / 257).max() <= 0.5


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0, 1e6])
def test_floats_and_wide_integers_are_brought_into_range(top):
    values = np.linspace(0, top, 64, dtype=np.float32).reshape(8, 8)
    assert np.abs(seen(encoded(Image.fromarray(values), "TIFF"))[..., 0] - values * (255 / top)).max() <= 0.6
    if top > 1:
        whole = values.astype(np.int32)
        assert np.abs(seen(encoded(Image.fromarray(whole), "TIFF"))[..., 0] - whole * (255 / top)).max() <= 1.1


def test_values_that_are_no_numbers_are_black():
    values = np.array([[np.nan, np.inf], [0.5, 1.0]], np.float32)
    assert seen(encoded(Image.fromarray(values), "TIFF"))[..., 0].tolist() == [[0, 0], [128, 255]]


def test_transparency_lies_on_white():
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert (seen(encoded(clear)) == 255).all()
    palette = Image.new("P", (4, 4))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 2), 1)
    shown = seen(encoded(palette, "GIF", transparency=0))
    assert shown[0, 0].tolist() == [255, 255, 255]
    assert shown[2, 1].tolist() == [0, 0, 255]
    keyed = seen(encoded(Image.new("RGB", (4, 4), (9, 9, 9)), transparency=(9, 9, 9)))
    assert (keyed == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    from PIL import ImageOps

    picture = scene()
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(picture, "PNG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert np.array_equal(seen(content), np.asarray(upright))


def test_the_first_frame_is_taken_and_told():
    frames = [scene(seed=s).quantize(64) for s in range(3)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    facts, pixels = inspect_one(content, "a.gif")
    assert facts.note == "first of several frames"
    assert np.array_equal(pixels, np.asarray(frames[0].convert("RGB")))


@pytest.mark.parametrize(
    ("name", "note"), [("a.jpg", "GIF named .jpg"), ("a.GIF", ""), ("a.php", "GIF named .php"), ("a", "")]
)
def test_a_wrong_extension_is_noted(tmp_path, name, note):
    content = encoded(scene().quantize(16), "GIF")
    assert inspect_one(content, name)[0].note == note
    (tmp_path / name).write_bytes(content)
    assert inspect_one(tmp_path / name)[0].note == note


# --- large JPEGs, of which only a small square is asked for ---------------------------------------------------------


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_reduced_scale_changes_the_pixels_and_nothing_else(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    coarse = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(coarse).resize((1400, 1200), Image.Resampling.BICUBIC), format, exif=exif)
    (whole, full), (facts, square) = inspect_one(content), inspect_one(content, side_px=64)
    same = {"pixel_digest": "", "phash": 0}
    assert replace(facts, **same) == replace(whole, **same)
    assert (facts.phash ^ whole.phash).bit_count() <= 2
    expected = centre_square(Image.fromarray(full), 64)
    assert np.abs(square.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("side_px", [36, 256, 300])
def test_what_is_left_of_a_reduced_picture_is_enough(side_px, monkeypatch):
    decoded = []
    monkeypatch.setattr(images, "phash", lambda picture: decoded.append(picture.size) or 0)
    for width, height in ((200, 150), (640, 480), (1999, 1024), (257, 2049)):
        _, square = inspect_one(encoded(scene(width, height), "JPEG"), side_px=side_px)
        assert min(decoded[-1]) >= min(width, height, max(side_px, images.HASHED_PX))
        assert decoded[-1][0] / decoded[-1][1] == pytest.approx(width / height, rel=0.02)
        assert square.shape == (min(width, height, side_px),) * 2 + (3,)
    assert decoded[-2] < (1999, 1024)


def test_a_large_jpeg_without_its_end_is_still_truncated():
    noise = np.random.default_rng(0).integers(0, 256, (520, 600, 3), dtype=np.uint8)
    for options in ({}, {"progressive": True}):
        whole = encoded(Image.fromarray(noise), "JPEG", **options)
        assert inspect_one(whole, side_px=36)[0].status == Status.OK
        for cut in range(2000, len(whole) - 16, len(whole) // 12):
            assert inspect_one(whole[:cut], side_px=36)[0].status == Status.TRUNCATED


def test_a_jpeg_whose_remarks_alone_differ_is_an_exact_copy_at_any_scale():
    one, other = (encoded(scene(1400, 1200), "JPEG", comment=words) for words in (b"one", b"another"))
    assert one != other
    assert inspect_one(one, side_px=64)[0].pixel_digest == inspect_one(other, side_px=64)[0].pixel_digest


# --- hashes ---------------------------------------------------------------------------------------------------------


def test_equal_pixels_have_one_digest_whatever_the_format():
    facts = [inspect_one(encoded(scene(), *how))[0] for how in (("PNG",), ("BMP",), ("TIFF",))]
    facts.append(inspect_one(encoded(scene(), "WEBP", lossless=True))[0])
    assert len({f.pixel_digest for f in facts}) == 1
    assert len({f.sha256 for f in facts}) == 4
    turned = inspect_one(encoded(scene(40, 60)))[0]
    assert turned.pixel_digest != facts[0].pixel_digest


def test_phash_is_the_textbook_formula():
    from scipy.fft import dct

    picture = scene(100, 80)
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS), float)
    low = dct(dct(grey, axis=0), axis=1)[:8, :8]
    bits = "".join("1" if bit else "0" for bit in (low > np.median(low)).ravel())
    assert images.phash(picture) == int(bits, 2)


def test_a_digest_tells_pictures_apart_that_are_alike_where_the_network_looks():
    wide = np.asarray(scene(300, 100)).copy()
    facts = inspect_one(encoded(Image.fromarray(wide)), side_px=32)[0]
    assert facts.pixel_digest == inspect_one(encoded(Image.fromarray(wide), "BMP"), side_px=32)[0].pixel_digest
    wide[:, :90] = wide[::-1, :90]  # the square in the middle is what it was
    other, square = inspect_one(encoded(Image.fromarray(wide)), side_px=32)
    assert np.array_equal(square, centre_square(scene(300, 100), 32))
    assert other.pixel_digest != facts.pixel_digest


def test_phash_survives_light_changes_and_tells_pictures_apart():
    near = [images.phash(p) for p in (scene(200, 150), scene(200, 150).resize((120, 90)))]
    assert (near[0] ^ near[1]).bit_count() <= 4
    assert (near[0] ^ images.phash(scene(200, 150, seed=1))).bit_count() > 12


# --- silence --------------------------------------------------------------------------------------------------------


def test_c_libraries_write_nothing(capfd):
    with images.quiet():
        os.write(2, b"TIFFReadDirectory: Warning")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"
