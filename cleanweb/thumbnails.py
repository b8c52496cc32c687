"""Which pictures are worth a look, and small copies of them that fit into a text file.

Takes a finished run; gives contact sheets, always the same ones for the same manifest. A picture that has vanished
since is no error. Memory: the small copies. Time: that of decoding them, on all cores; JPEGs are decoded small.
"""

import base64
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from cleanweb import manifest
from cleanweb.images import quiet, thumbnail
from cleanweb.opening import read_bytes
from cleanweb.records import Progress, silent
from cleanweb.schema import COPIES

SIDE_PX = 112
QUALITY = 70  # with 112 px 2 to 5 kB a picture: all sheets together stay at a few MB

OF_VERDICT, OF_CLASS, CLASSES, GROUPS, OF_GROUP = 12, 6, 20, 12, 6  # together at most 336 pictures
_PICTURE = "duplicate_of IS NULL AND confidence IS NOT NULL"  # each once


@dataclass(frozen=True, slots=True)
class Sheet:
    """Pictures that are looked at side by side."""

    title: str
    rows: list[dict[str, object]]  # of the table images
    more: int = 0  # pictures that belong here and are not shown


def of_verdicts(run: Path) -> dict[str, list[Sheet]]:
    """verdict → its surest pictures and its least sure ones; no picture is on both."""
    sheets = {}
    for verdict in ("clean", "relabeled", "ood"):
        which = f"{_PICTURE} AND verdict = '{verdict}'"
        n = int(manifest.rows(run, f"SELECT count(*) AS n FROM images WHERE {which}")["n"].iloc[0])
        n_surest = min(OF_VERDICT, (n + 1) // 2)
        surest = _rows(run, f"{which} ORDER BY confidence DESC, sample_id LIMIT ?", n_surest)
        least = _rows(run, f"{which} ORDER BY confidence, sample_id DESC LIMIT ?", min(OF_VERDICT, n - n_surest))
        sheets[verdict] = [Sheet("The surest", surest), Sheet("The least sure", least)]
    return sheets


def of_classes(run: Path, labels: Sequence[str]) -> list[Sheet]:
    """For each of these labels the pictures that keep it with the least probability; of at most `CLASSES` of them."""
    which = f"{_PICTURE} AND verdict = 'clean' AND given_label = ? ORDER BY p_clean, sample_id LIMIT ?"
    sheets = [Sheet(label, _rows(run, which, label, OF_CLASS)) for label in labels[:CLASSES]]
    return [sheet for sheet in sheets if sheet.rows]


def under_two_labels(run: Path) -> tuple[list[Sheet], int]:
    """Pictures that were given several labels, with all their copies; and how many there are."""
    return _groups(run, "min(given_label) <> max(given_label)")


def near_duplicates(run: Path) -> tuple[list[Sheet], int]:
    """Pictures of which there are copies that only look the same; and how many there are."""
    return _groups(run, "bool_or(duplicate_kind = 'near')")


def _groups(run: Path, wanted: str) -> tuple[list[Sheet], int]:
    found = manifest.rows(run, f"SELECT picture, count(*) AS copies, count(*) OVER () AS pictures FROM ({COPIES}) "
                               f"GROUP BY picture HAVING {wanted} ORDER BY picture LIMIT {GROUPS}")  # fmt: skip
    sheets = [
        Sheet(key, _rows(run, f"? IN (sample_id, duplicate_of) ORDER BY rowid LIMIT {OF_GROUP}", key),
              max(0, copies - OF_GROUP))
        for key, copies in zip(found["picture"], found["copies"].tolist(), strict=True)
    ]  # fmt: skip
    return sheets, int(found["pictures"].max()) if len(found) else 0


def _rows(run: Path, which: str, *values: object) -> list[dict[str, object]]:
    found = manifest.rows(run, f"SELECT * EXCLUDE (rowid) REPLACE (verdict::VARCHAR AS verdict) FROM numbered_images "
                               f"WHERE {which}", values)  # fmt: skip
    return found.astype(object).where(found.notna(), None).to_dict("records")


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
