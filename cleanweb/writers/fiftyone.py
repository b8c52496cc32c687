"""FiftyOne's own JSON for image classification.

    out/data.json                number of each image → its file
    out/labels.json              classes; number → label, confidence, and as attributes verdict, given_label, sample_id
    out/images/0000012.jpg       only images that have no file of their own, being embedded in Parquet

    import fiftyone as fo
    kind = fo.types.FiftyOneImageClassificationDataset
    fo.Dataset.from_dir("out", dataset_type=kind, data_path="data.json")

Where the images are split there is such a folder for each split: out/train, out/val … The images stay where they are.
Images of no class have the sample, and no label.
"""

import json
from pathlib import Path

from cleanweb import writers

SUFFIX = ""
LABELLED = False

_ATTRIBUTES = ("verdict", "given_label", "sample_id")


def write(export: writers.Export) -> int:
    """Write the labels to the folder `out`; returns how many of the images could be read."""
    images, written = export.images(), 0
    labels = writers.labels_of(images)
    with writers.draft(export.out, folder=True) as root:
        for split, places in export.places(images, root):
            folder, above = (root / split, "../") if split else (root, "")
            files = {i: place if Path(place).is_absolute() else above + place for i, place in places.items()}
            _write_split(folder, images, files, labels)
            written += len(places)
    return written


def _write_split(folder: Path, images: list[writers.Image], files: dict[int, str], labels: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    found = {"classes": labels, "labels": {f"{i:07d}": _target(images[i]) for i in files}}
    for name, content in (("data.json", {f"{i:07d}": file for i, file in files.items()}), ("labels.json", found)):
        (folder / name).write_text(json.dumps(content), encoding="ascii")  # paths need not be UTF-8


def _target(image: writers.Image) -> dict[str, object] | None:
    if image.label is None:
        return None
    attributes = {name: getattr(image, name) for name in _ATTRIBUTES}
    return {"label": image.label, "confidence": image.confidence, "attributes": attributes}
