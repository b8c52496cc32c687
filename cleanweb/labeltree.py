"""A tree of images with one folder per label, and one above them per split where the images are split.

root/<label>/<name>              names as in the crawl, made safe
root/<split>/<label>/<name>      every split has a folder for every label, empty or not, so that loaders which number
                                 the folders they find number them alike in every split
root/_ood/<name>                 images without a label, by their verdict
"""

from pathlib import Path

from cleanweb import placing, safenames
from cleanweb.writers import Export, Image

NO_LABELS = ("_clean", "_relabeled", "_ood", "_unusable", "labels.csv")


def grow(export: Export, root: Path) -> tuple[list[str], list[int]]:
    """Put the images of an export below `root`: where each belongs, relative and posix, and the rows that are there."""
    images = export.images()
    folders = safenames.folders({image.label for image in images if image.label is not None}, NO_LABELS)
    for split in export.splits:
        for folder in folders.values():
            (root / split / folder).mkdir(parents=True)
    places = places_of(images, folders)
    written = [i for i, content in export.readable() if placing.put(content, root / places[i], export.link)]
    return places, sorted(written)


def places_of(images: list[Image], folders: dict[str, str]) -> list[str]:
    """No two the same on any file system. folders: of each label."""
    taken = safenames.Taken()
    places = []
    for image in images:
        folder = f"_{image.verdict}" if image.label is None else folders[image.label]
        folder = f"{image.split}/{folder}" if image.split else folder
        stem, suffix = safenames.image_name(image.path, image.format)
        names = safenames.candidates(stem, image.sample_id)
        places.append(taken.claim(f"{folder}/{name}{suffix}" for name in names))
    return places
