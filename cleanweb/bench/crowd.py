"""A crawl of any size made of a small clean set: every picture comes back in many variants, in Parquet shards.

    out/crawl-00000.parquet …    image {bytes, path}, label: 20,000 small JPEGs each, a thousandth of them broken off

Each picture is cut, mirrored, brightened and encoded anew for every variant, so that the variants are pictures of their
own. The set's classes, or the superclasses where it has any, are labels; a fifth of those is foreign (labelled at
random), a fifth of the labels of the others is wrong. Same source, size and seed, same files.
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance

from cleanweb import opening, pixelcache, writers
from cleanweb.bench.sources import Source, stream
from cleanweb.errors import UsageError
from cleanweb.writers.parquet import store

VARIANTS = 20  # of one picture, whatever the size: what is a copy of what does not depend on it
SHARD = 20_000
SIDE_PX = 32
FOREIGN, WRONG, BROKEN = 0.2, 0.2, 0.001  # shares


@dataclass(frozen=True, slots=True)
class _Shard:
    """What one shard is made of."""

    pictures: np.ndarray  # (m, SIDE_PX, SIDE_PX, 3) uint8
    labels: list[str]
    first: int  # number of its first image
    seed: int
    file: Path


def write(source: Source, n: int, seed: int, out: Path, workers: int) -> None:
    """Write a crawl of n images to `out`, whole or not at all. Raises UsageError where the source has too few."""
    rng = stream(seed, "crowd")
    if len(source.labels) < -(-n // VARIANTS):
        raise UsageError(f"{n:,} images are made of {-(-n // VARIANTS):,} pictures; {source.name} has "
                         f"{len(source.labels):,}.")  # fmt: skip
    chosen = rng.permutation(len(source.labels))[: -(-n // VARIANTS)]
    pictures = _pictures(source, chosen)
    of = rng.permutation(np.repeat(np.arange(len(chosen)), VARIANTS)[:n])
    labels = _labels(source, chosen[of], rng)
    with writers.draft(out, folder=True) as root:
        root.mkdir(exist_ok=True)
        shards = (
            _Shard(
                pictures[of[k : k + SHARD]], labels[k : k + SHARD], k, seed, root / f"crawl-{k // SHARD:05d}.parquet"
            )
            for k in range(0, n, SHARD)
        )
        _write_all(shards, workers)


def _write_all(shards: Iterator[_Shard], workers: int) -> None:
    with ProcessPoolExecutor(max(1, workers), get_context("spawn")) as pool:
        waiting = []
        for shard in shards:
            waiting.append(pool.submit(_write_shard, shard))
            if len(waiting) > workers:
                waiting.pop(0).result()
        for future in waiting:
            future.result()


def _pictures(source: Source, chosen: np.ndarray) -> np.ndarray:
    """The chosen pictures, small: (m, side, side, 3) uint8."""
    place = {int(i): k for k, i in enumerate(chosen)}
    made = np.empty((len(chosen), SIDE_PX, SIDE_PX, 3), np.uint8)
    for i, content in opening.contents(source.samples):
        if i in place:
            with Image.open(BytesIO(opening.bytes_of(content))) as picture:
                square = pixelcache.centre_square(picture.convert("RGB"), SIDE_PX)
            made[place[i]] = square if len(square) == SIDE_PX else pixelcache.resized(square, SIDE_PX)
    return made


def _labels(source: Source, of: np.ndarray, rng: np.random.Generator) -> list[str]:
    """What the crawl calls its images, most of them rightly."""
    truth = source.labels[of] if source.superclass is None else source.superclass[source.labels[of]]
    n_inside = max(2, round((int(truth.max()) + 1) * (1 - FOREIGN)))
    random = rng.integers(0, n_inside, len(truth))
    given = np.where((truth >= n_inside) | (rng.random(len(truth)) < WRONG), random, truth)
    return [f"class {c:03d}" for c in given]


def _write_shard(shard: _Shard) -> None:
    rng = np.random.default_rng([shard.seed, shard.first])
    contents = [_variant(Image.fromarray(picture), rng) for picture in shard.pictures]
    names = [f"{shard.first + k:08d}.jpg" for k in range(len(contents))]
    table = pd.DataFrame({"bytes": contents, "path": names, "label": shard.labels})
    store(
        table, "struct_pack(bytes := bytes::BLOB, path := path::VARCHAR) AS image, label::VARCHAR AS label", shard.file
    )


def _variant(picture: Image.Image, rng: np.random.Generator) -> bytes:
    """The picture cut, mirrored, brighter or darker, as a JPEG."""
    side = int(rng.integers(SIDE_PX * 5 // 8, SIDE_PX + 1))
    left, top = rng.integers(0, SIDE_PX - side + 1, 2).tolist()
    made = picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    if rng.random() < 0.5:
        made = made.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    made = ImageEnhance.Brightness(made).enhance(float(rng.uniform(0.7, 1.3)))
    encoded = BytesIO()
    made.save(encoded, "JPEG", quality=int(rng.integers(70, 95)))
    data = encoded.getvalue()
    return data[: len(data) // 2] if rng.random() < BROKEN else data
