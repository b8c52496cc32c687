"""A tree with one folder per class, as torchvision's ImageFolder and many other loaders read it.

    out/<label>/<name>           or, where the images are split, out/<split>/<label>/<name>
    out/_ood/<name>              images of no class, if such rows are exported
    out/_unusable/<name>         images that could not be used, if such rows are exported
    out/labels.csv               the table of labels, its paths relative to `out`: labels and names that had to change
                                 can be found again (`cleanweb fit out --labels out/labels.csv` reads it)

Names are safe on Linux, macOS and Windows, and no two of them differ by case alone. A label that had to change, or
whose name is taken, carries eight digits of its SHA-256; an image whose name is taken those of its sample_id.

An image that cannot be read is left out, and not counted as written. Hard and symbolic links are links to the crawl:
whoever edits an image behind one edits the crawl.
"""

from cleanweb import labeltree, spreadsheet, writers

SUFFIX = ""
LABELLED = False


def write(export: writers.Export) -> int:
    """Write the images to the folder `out`; returns how many could be read."""
    with writers.draft(export.out, folder=True) as root:
        places, written = labeltree.grow(export, root)
        with (root / "labels.csv").open("x", encoding="utf-8", newline="") as stream:
            spreadsheet.write(*writers.table(export.rows.assign(path=places).iloc[written]), stream)
    return len(written)
