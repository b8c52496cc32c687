"""Draws a small crawl with known truth: six classes of clip art with all that goes wrong on the web.

    python sample_data/draw.py                          # the crawl kept beside this file
    python sample_data/draw.py --out /tmp/c --seed 7    # another one of the same kind

Writes crawl/ (the files), labels.csv (path,label: what a crawler would hand over) and truth.csv (path,label,truth).
truth is empty for a foreign picture; truth.csv has one line per path that has a true answer, with the label of the
path's first row: broken, missing, unlabeled and unlisted files have none.

480 drawings of the six classes, one label in five wrong; 80 foreign drawings of five kinds under labels drawn at
random; 28 copies (10 the same bytes, 6 the same pixels in another format, 12 resized or recompressed), of which 6
carry another label than their original; 5 broken files. Same seed, same crawl.
"""

import argparse
import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from clipart import CLASSES, FOREIGN, Rng, fish, picture, tree
from PIL import Image

HERE = Path(__file__).parent
PER_CLASS, PER_FOREIGN_KIND, WRONG_LABELS = 80, 16, 0.2


@dataclass(frozen=True)
class Item:
    """One file of the crawl and its row. label None: no row; truth None: no true answer; truth '': foreign."""

    data: bytes
    suffix: str
    label: str | None
    truth: str | None
    name: str = ""


def encode(image: Image.Image, suffix: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, {".jpg": "JPEG"}.get(suffix, suffix[1:].upper()), **options)
    return buffer.getvalue()


def another(rng: Rng, label: str) -> str:
    return str(rng.choice([name for name in CLASSES if name != label]))


def web_file(image: Image.Image, rng: Rng, k: int) -> tuple[bytes, str]:
    """The picture as a web server might send it. The first few, by k, are the awkward ones: each kind once."""
    if k == 0:
        return encode(image.convert("CMYK"), ".jpg", quality=85), ".jpg"
    if k == 1:  # lies on its side, EXIF tells how to turn it back
        exif = Image.Exif()
        exif[0x0112] = 6
        return encode(image.transpose(Image.Transpose.ROTATE_90), ".jpg", quality=85, exif=exif), ".jpg"
    if k == 2:
        return encode(image, ".png"), ".jpg"
    if k == 3:  # animated: the first frame counts
        return encode(image.quantize(64), ".gif", save_all=True, append_images=[image.rotate(180).quantize(64)]), ".gif"
    if k == 4:
        return encode(image.convert("L"), ".png"), ".png"
    if k == 5:
        return encode(image.convert("RGBA"), ".png"), ".png"
    suffix = rng.choice([".jpg", ".png", ".webp", ".gif"], p=[0.82, 0.06, 0.08, 0.04])
    if suffix == ".gif":
        image = image.quantize(128)
    options = {"quality": int(rng.integers(60, 93))} if suffix in (".jpg", ".webp") else {}
    return encode(image, suffix, **options), suffix


def drawings(rng: Rng) -> Iterator[Item]:
    """The true pictures under mostly right labels, the foreign ones under any; two more without a row or a label."""
    plan = [(name, *CLASSES[name]) for name in CLASSES for _ in range(PER_CLASS)]
    wrong = set(rng.permutation(len(plan))[: round(WRONG_LABELS * len(plan))].tolist())
    order = rng.permutation(len(plan))
    for i, (name, draw, hue, lean) in enumerate(plan):
        data, suffix = web_file(picture(draw, rng, hue, lean), rng, int(order[i]))
        yield Item(data, suffix, another(rng, name) if i in wrong else name, name)
    for draw in FOREIGN * PER_FOREIGN_KIND:
        yield Item(*web_file(picture(draw, rng), rng, 99), another(rng, ""), "")
    yield Item(encode(picture(tree, rng), ".jpg"), ".jpg", None, None)
    yield Item(encode(picture(fish, rng), ".jpg"), ".jpg", "", None)


def is_plain(data: bytes) -> bool:
    image = Image.open(io.BytesIO(data))
    return image.format in ("JPEG", "WEBP") and image.mode == "RGB" and not image.getexif()


def copies(rng: Rng, items: list[Item]) -> Iterator[Item]:
    plain = [item for item in items if item.truth is not None and is_plain(item.data)]
    for k, i in enumerate(rng.permutation(len(plain))[:28]):
        item = plain[i] if k % 5 else replace(plain[i], label=another(rng, plain[i].label))
        image = Image.open(io.BytesIO(item.data)).convert("RGB")
        if k < 10:
            yield item
        elif k < 16:
            yield replace(item, data=encode(image, ".png"), suffix=".png")
        else:
            factor = rng.uniform(0.75, 1.3) if k % 2 else 1
            image = image.resize([round(side * factor) for side in image.size])
            yield replace(item, data=encode(image, ".jpg", quality=int(rng.integers(40, 60))), suffix=".jpg")


def broken(rng: Rng, items: list[Item]) -> Iterator[Item]:
    jpegs = [item.data for item in items if item.suffix == ".jpg" and item.data[:2] == b"\xff\xd8"]
    page = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Gone.</body></html>\n"
    cut = [jpegs[5][:900], jpegs[50][: len(jpegs[50]) // 2]]
    for data in (*cut, page, b'{"error": "hotlinking is forbidden"}\n', b""):
        yield Item(data, ".jpg", another(rng, ""), None)


def crawl(seed: int) -> tuple[list[Item], list[tuple[str, str]]]:
    """All files, numbered in an order that tells nothing, and all rows of labels.csv."""
    rng = np.random.default_rng(seed)
    items = list(drawings(rng))
    items += [*copies(rng, items), *broken(rng, items)]
    surname = {60: " copy", 200: " фото (1)", 400: " søndag"}
    items = [
        replace(items[i], name=f"{k + 1:04d}{surname.get(k, '')}{items[i].suffix}")
        for k, i in enumerate(rng.permutation(len(items)))
    ]
    rows = [(item.name, item.label) for item in items if item.label is not None]
    again, otherwise = [item for item in items if item.truth and item.suffix == ".jpg"][:2]
    rows.append((f"{len(items) + 1:04d}.jpg", another(rng, "")))  # a row without a file
    rows += [(again.name, again.label), (otherwise.name, another(rng, otherwise.label))]  # paths named again
    return items, rows


def write_table(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def write(out: Path, seed: int) -> None:
    items, rows = crawl(seed)
    folder = out / "crawl"
    folder.mkdir(parents=True, exist_ok=out == HERE)
    for old in folder.iterdir():
        old.unlink()
    for item in items:
        (folder / item.name).write_bytes(item.data)
    write_table(out / "labels.csv", ("path", "label"), rows)
    truths = [(item.name, item.label, item.truth) for item in items if item.truth is not None]
    write_table(out / "truth.csv", ("path", "label", "truth"), truths)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to; it must not hold a crawl yet")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write(given.out, given.seed)
