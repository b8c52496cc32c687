"""The table images as Parquet parts, where it is too big for one file.

    cleanweb-run/manifest-parts/1f3a9c02/images-00000.parquet     `ROWS` rows, each with its number in `place`

In manifest.duckdb `images` is then a view: over the parts, which may also lie at an address, and over `image_changes`,
the rows that people have changed since the parts were written. In the file the view names parts of the run folder as
they are found from there; whoever opens it through cleanweb has views that find them from anywhere.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from cleanweb.remote import is_address
from cleanweb.schema import CHANGED, SELECTIONS, TABLES, TRANSITIONS, quoted

MANY = 20_000_000  # rows of images, from which on they are kept in parts
ROWS = 1_000_000  # of one part
FOLDER = "manifest-parts"
HERE = "here"  # what `--parts` calls the run folder

_IMAGES = {name: (kind, comment) for name, kind, comment in TABLES["images"]}


def tables() -> Iterator[str]:
    """The statements that make what a manifest in parts has beside the tables of the schema."""
    columns = {name: _IMAGES[name] for name in ("sample_id", *CHANGED)}
    made = ", ".join(f"{name} {kind}" for name, (kind, _) in columns.items())
    yield f"CREATE TABLE image_changes ({made}, PRIMARY KEY (sample_id))"
    yield "CREATE TABLE image_location (location VARCHAR NOT NULL, parts BIGINT NOT NULL)"
    yield "COMMENT ON TABLE image_changes IS 'Rows of images that people have changed since the parts were written'"
    yield "COMMENT ON TABLE image_location IS 'Where the parts of images lie'"
    yield "COMMENT ON COLUMN image_location.location IS 'A folder below the run folder, or an address'"
    yield "COMMENT ON COLUMN image_location.parts IS 'How many there are'"
    for name, (_, comment) in columns.items():
        yield f"COMMENT ON COLUMN image_changes.{name} IS {quoted(comment)}"


def view_in_file(location: str, n: int) -> Iterator[str]:
    """The statements that make images a view over n parts, as they are found from the run folder."""
    made = dict(views(files(location, n, None)))
    yield f"CREATE VIEW image_parts AS {made['image_parts']}"
    yield "COMMENT ON VIEW image_parts IS 'Rows of images as they were written'"
    yield "COMMENT ON COLUMN image_parts.place IS 'Number of the row, from 0'"
    for name, (_, comment) in _IMAGES.items():
        yield f"COMMENT ON COLUMN image_parts.{name} IS {quoted(comment)}"
    yield f"CREATE VIEW numbered_images AS {made['numbered_images']}"
    yield "COMMENT ON VIEW numbered_images IS 'images, with the number of each row'"
    yield "COMMENT ON COLUMN numbered_images.rowid IS 'Number of the row, from 0'"
    for name, (_, comment) in _IMAGES.items():
        yield f"COMMENT ON COLUMN numbered_images.{name} IS {quoted(comment)}"
    yield f"CREATE VIEW images AS {made['images']}"


def wanted(n_rows: int, settings: str | None) -> str | None:
    """Where the parts of so many rows go: a folder below the run folder, or an address; None: into one table. settings:
    of the run, JSON."""
    asked = json.loads(settings or "{}").get("parts")
    return asked if asked and asked != HERE else FOLDER if asked or n_rows > MANY else None


def files(location: str, n: int, run: Path | None) -> list[str]:
    """The n parts at a location; those of a run folder absolute, or as they are found from it, where run is None."""
    at = location if is_address(location) or run is None else (run / location).as_posix()  # an absolute one stays
    return [f"{at}/images-{i:05d}.parquet" for i in range(n)]


def views(parts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The views over these parts: name and query."""
    yield "image_parts", f"SELECT * FROM read_parquet([{', '.join(quoted(pattern(part)) for part in parts)}])"
    columns = ", ".join(_column(name, kind.split()[0]) for name, kind, _ in TABLES["images"])
    joined = "FROM image_parts p LEFT JOIN image_changes c USING (sample_id)"
    yield "numbered_images", f"SELECT p.place AS rowid, {columns} {joined}"
    yield "images", f"SELECT {columns} {joined}"
    yield from ((view, f"SELECT * FROM images WHERE {condition}") for view, (condition, _) in SELECTIONS.items())
    yield "transitions", TRANSITIONS


def _column(name: str, kind: str) -> str:
    stored = f"p.{name}::{kind}"
    return f"if(c.sample_id IS NULL, {stored}, c.{name}) AS {name}" if name in CHANGED else f"{stored} AS {name}"


def pattern(file: str) -> str:
    """DuckDB takes names for patterns: the pattern that means this name."""
    return "".join(f"[{letter}]" if letter in "[*?" else letter for letter in file)
