"""Which pictures are worth a look, and small copies of them that fit into a text file.

Takes the manifest's tables; gives contact sheets, always the same ones for the same tables. A picture that has vanished
since is no error. Memory: the small copies. Time: that of decoding them, on all cores; JPEGs are decoded small.
"""

import base64
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from cleanweb.images import quiet, thumbnail
from cleanweb.readers import read_bytes
from cleanweb.records import Progress, silent

if TYPE_CHECKING:
    import pandas as pd

SIDE_PX = 112
QUALITY = 70  # with 112 px 2 to 5 kB a picture: all sheets together stay at a few MB

OF_VERDICT, OF_CLASS, CLASSES, GROUPS, OF_GROUP = 12, 6, 20, 12, 6  # together at most 336 pictures


@dataclass(frozen=True, slots=True)
class Sheet:
    """Pictures that are looked at side by side."""

    title: str
    rows: list[dict[str, object]]  # of the table images
    more: int = 0  # pictures that belong here and are not shown


def of_verdicts(images: "pd.DataFrame") -> dict[str, list[Sheet]]:
    """verdict → its surest pictures and its least sure ones; no picture is on both."""
    sheets = {}
    for verdict in ("clean", "relabeled", "ood"):
        found = _pictures(images[images["verdict"] == verdict])
        found = found.sort_values(["confidence", "sample_id"], ascending=[False, True])
        surest = found.head(min(OF_VERDICT, (len(found) + 1) // 2))
        least = found.iloc[len(surest) :].tail(OF_VERDICT).iloc[::-1]
        sheets[verdict] = [Sheet("The surest", _rows(surest)), Sheet("The least sure", _rows(least))]
    return sheets


def of_classes(images: "pd.DataFrame", labels: Sequence[str]) -> list[Sheet]:
    """For each of these labels the pictures that keep it with the least probability; of at most `CLASSES` of them."""
    clean = _pictures(images[images["verdict"] == "clean"]).sort_values(["p_clean", "sample_id"])
    clean = clean[clean["given_label"].isin(labels[:CLASSES])].groupby("given_label", sort=False).head(OF_CLASS)
    found = dict(iter(clean.groupby("given_label", sort=False)))
    return [Sheet(label, _rows(found[label])) for label in labels[:CLASSES] if label in found]


def under_two_labels(images: "pd.DataFrame") -> tuple[list[Sheet], int]:
    """Pictures that were given several labels, with all their copies; and how many there are."""
    picture = images["duplicate_of"].fillna(images["sample_id"])
    return _groups(images, picture, images["given_label"].groupby(picture).nunique() > 1)


def near_duplicates(images: "pd.DataFrame") -> tuple[list[Sheet], int]:
    """Pictures of which there are copies that only look the same; and how many there are."""
    picture = images["duplicate_of"].fillna(images["sample_id"])
    return _groups(images, picture, (images["duplicate_kind"] == "near").groupby(picture).any())


def _groups(images: "pd.DataFrame", picture: "pd.Series", wanted: "pd.Series") -> tuple[list[Sheet], int]:
    keys = sorted(wanted[wanted].index)
    sheets = []
    for key in keys[:GROUPS]:
        copies = images[picture == key]
        sheets.append(Sheet(key, _rows(copies.head(OF_GROUP)), max(0, len(copies) - OF_GROUP)))
    return sheets, len(keys)


def _pictures(images: "pd.DataFrame") -> "pd.DataFrame":
    """Each picture once."""
    return images[images["duplicate_of"].isna() & images["confidence"].notna()]


def _rows(images: "pd.DataFrame") -> list[dict[str, object]]:
    return images.astype(object).where(images.notna(), None).to_dict("records")


def make(rows: Iterable[dict[str, Any]], progress: Progress = silent) -> dict[str, str | None]:
    """sample_id → a small JPEG as a data URI, None where the picture cannot be read any more."""
    wanted = {row["sample_id"]: row for row in rows}
    with quiet(), warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")
        made: dict[str, str | None] = {}
        for key, picture in zip(wanted, pool.map(_small, wanted.values()), strict=True):
            made[key] = picture
            progress("pictures", len(made), len(wanted))
        return made


def _small(row: dict[str, Any]) -> str | None:
    if row["file"] is None:
        return None
    try:
        picture = thumbnail(read_bytes(row["file"], row["row_in_file"]), SIDE_PX)
    except Exception:  # gone, no permission, another file by now, damaged: all the same to who looks at the sheet
        return None
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
