"""COCO's JSON for image classification: every image with one category, and a box around all of it.

    out/annotations.json         or, where the images are split, out/train.json …
    out/images/0000012.jpg       only images that have no file of their own, being embedded in Parquet

The images stay where they are: `file_name` is their whole path, so that any image root will do; that of an image in
`out/images` counts from `out`. Images of no class are listed and have no annotation.
"""

import json

from cleanweb import writers

SUFFIX = ""
LABELLED = False

_FIELDS = ("sample_id", "path", "verdict", "given_label", "confidence")


def write(export: writers.Export) -> int:
    """Write the annotations to the folder `out`; returns how many of the images could be read."""
    images, written = export.images(), 0
    labels = writers.labels_of(images)
    with writers.draft(export.out, folder=True) as root:
        for split, places in export.places(images, root):
            file = root / f"{split or 'annotations'}.json"
            file.write_text(json.dumps(_document(images, places, labels)), encoding="ascii")  # paths need not be UTF-8
            written += len(places)
    return written


def _document(images: list[writers.Image], places: dict[int, str], labels: list[str]) -> dict[str, object]:
    category = {label: number for number, label in enumerate(labels, 1)}
    listed, annotations = [], []
    for i, place in places.items():
        image, width, height = images[i], images[i].width or 0, images[i].height or 0
        known = {name: getattr(image, name) for name in _FIELDS}
        listed.append({"id": i + 1, "file_name": place, "width": width, "height": height} | known)
        if image.label is not None:
            annotations.append({"id": i + 1, "image_id": i + 1, "category_id": category[image.label], "iscrowd": 0,
                                "bbox": [0, 0, width, height], "area": width * height})  # fmt: skip
    return {
        "info": {"description": "cleanweb export"},
        "images": listed,
        "annotations": annotations,
        "categories": [{"id": number, "name": label} for label, number in category.items()],
    }
