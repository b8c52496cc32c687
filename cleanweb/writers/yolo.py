"""A classification data set for Ultralytics YOLO: `yolo classify train data=out model=yolo11n-cls.pt`.

    out/train/<label>/<name>     names as in imagefolder
    out/val/<label>/<name>

Images are split into train and val whatever is asked for; a further split may be called test. Images of no class have
no place in it.
"""

from cleanweb import labeltree, writers
from cleanweb.errors import UsageError

SUFFIX = ""
LABELLED = True
SPLIT = "train=0.9,val=0.1"  # where none is asked for


def check(export: writers.Export) -> None:
    """Raises UsageError where the splits are not YOLO's."""
    if not {"train", "val"} <= set(export.splits) <= {"train", "val", "test"}:
        raise UsageError("YOLO knows the splits train, val and test, and needs two: give --split train=0.9,val=0.1.")


def write(export: writers.Export) -> int:
    """Write the images to the folder `out`; returns how many could be read."""
    with writers.draft(export.out, folder=True) as root:
        return len(labeltree.grow(export, root)[1])
