"""An image folder with metadata, for Hugging Face's `datasets`.

    out/train/0000012.jpg        images by number: `datasets` guesses splits from the words of a path, and a class or a
                                 file of the crawl may be called "test"
    out/train/metadata.jsonl     file_name, label, verdict, given_label, confidence, sample_id, path
    out/README.md                the data set's card, which says where the splits lie

`load_dataset("out")` reads it, and `load_dataset("imagefolder", data_dir="out")` where the splits are called train, val
and test. Labels are text: `.class_encode_column("label")` makes them numbers. Images that are not split are in train.
"""

import json
from pathlib import Path

from cleanweb import placing, safenames, writers

SUFFIX = ""
LABELLED = False

_FIELDS = ("label", "verdict", "given_label", "confidence", "sample_id", "path")
_NAMES = {"val": "validation"}  # what `datasets` makes of our folders' names


def write(export: writers.Export) -> int:
    """Write the images to the folder `out`; returns how many could be read."""
    images = export.images()
    places = [f"{image.split or 'train'}/{safenames.numbered(i, image.format)}" for i, image in enumerate(images)]
    with writers.draft(export.out, folder=True) as root:
        written = [i for i, content in export.readable() if placing.put(content, root / places[i], export.link)]
        splits = export.splits or ("train",)
        for split in splits:
            (root / split).mkdir(exist_ok=True)
            mine = [i for i in sorted(written) if (images[i].split or "train") == split]
            _write_metadata([images[i] for i in mine], [places[i] for i in mine], root / split / "metadata.jsonl")
        (root / "README.md").write_text(_card(splits), encoding="utf-8", newline="\n")
    return len(written)


def _write_metadata(images: list[writers.Image], places: list[str], file: Path) -> None:
    with file.open("x", encoding="utf-8", newline="\n") as stream:
        for image, place in zip(images, places, strict=True):
            record = {"file_name": place.rpartition("/")[2]} | {name: getattr(image, name) for name in _FIELDS}
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")


def _card(splits: tuple[str, ...]) -> str:
    """YAML for `datasets`: where each split lies."""
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split in splits:
        lines += [f"  - split: {_NAMES.get(split, split)}", f"    path: {split}/**"]
    words = "Images and labels handed over by cleanweb (`cleanweb export --format huggingface`)."
    return "\n".join([*lines, "task_categories:", "- image-classification", "---", "", words, ""])
