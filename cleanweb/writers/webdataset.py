"""Tar files for WebDataset: `wds.WebDataset("out/train-{000000..000004}.tar")`.

    out/images-000000.tar        or, where the images are split, out/<split>-000000.tar …
        0000012.jpg              the image as it is in the crawl, called jpg whatever its format: loaders want one name
                                 in all samples, and go by the content
        0000012.cls              the number of its class: the line of classes.json; -1 where it belongs to none
        0000012.json             label, verdict, given_label, confidence, sample_id, path, format
    out/classes.json             the names of the classes, in the order of their numbers

A tar holds up to 10,000 images or 1 GB. Single files are shuffled, always in the same way; images embedded in Parquet
stay in its order. The same export gives the same bytes.
"""

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

from cleanweb import placing, writers

SUFFIX = ""
LABELLED = False

MOST_IMAGES, MOST_BYTES = 10_000, 10**9  # of one tar
_FIELDS = ("label", "verdict", "given_label", "confidence", "sample_id", "path", "format")


def write(export: writers.Export) -> int:
    """Write the images to the folder `out`; returns how many could be read."""
    export = replace(export, rows=export.rows.iloc[_shuffled(export.rows["sample_id"].tolist())])
    images = export.images()
    labels = writers.labels_of(images)
    number_of: dict[str | None, int] = {label: i for i, label in enumerate(labels)}
    written = 0
    with writers.draft(export.out, folder=True) as root:
        shards = {split: _Shards(root, split) for split in export.splits or ("images",)}
        try:
            for i, content in export.readable():
                image, data = images[i], placing.read(content)
                if data is not None:
                    shards[image.split or "images"].add(f"{i:07d}", image, data, number_of.get(image.label, -1))
                    written += 1
        finally:
            for shard in shards.values():
                shard.close()
        (root / "classes.json").write_text(json.dumps(labels, ensure_ascii=False, indent=1), encoding="utf-8")
    return written


def _shuffled(sample_ids: list[str]) -> list[int]:
    return sorted(range(len(sample_ids)), key=lambda i: hashlib.blake2b(sample_ids[i].encode()).digest())


class _Shards:
    """The tars of one split, one after the other."""

    def __init__(self, root: Path, split: str):
        self.root, self.split, self.n_tars = root, split, 0
        self._open()

    def add(self, key: str, image: writers.Image, data: bytes, label: int) -> None:
        """One image and what is known of it."""
        if self.n_images == MOST_IMAGES or (self.n_images and self.n_bytes + len(data) > MOST_BYTES):
            self.close()
            self._open()
        record = json.dumps({name: getattr(image, name) for name in _FIELDS}, ensure_ascii=False)
        self._put(f"{key}.jpg", data)
        self._put(f"{key}.cls", str(label).encode())
        self._put(f"{key}.json", record.encode())
        self.n_images += 1
        self.n_bytes += len(data)

    def close(self) -> None:
        self.tar.close()

    def _open(self) -> None:
        self.tar = tarfile.TarFile(self.root / f"{self.split}-{self.n_tars:06d}.tar", "x", format=tarfile.USTAR_FORMAT)
        self.n_tars, self.n_images, self.n_bytes = self.n_tars + 1, 0, 0

    def _put(self, name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        self.tar.addfile(entry, io.BytesIO(data))
