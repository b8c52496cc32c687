"""Which column of a table holds the paths, and which the labels: guessed by name, or as the user says."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cleanweb.errors import UsageError
from cleanweb.remote import Remote

# Names by rank: the first rank that any column answers to decides, and two columns that answer to it are too many.
# A name is compared in lower case and in words: imagePath, image-path and "Image Path" are image_path.
_NAMES = {
    "path": (
        {"path"},
        {"file", "filename", "file_name", "filepath", "file_path", "image", "images", "image_path", "imagepath",
         "image_file", "image_filename", "image_file_name", "image_name", "imagename", "img", "img_path", "imgpath",
         "img_file", "img_filename", "img_name", "relative_path", "rel_path"},
    ),
    "label": (
        {"label"},
        {"labels", "class", "category", "target", "class_name", "classname", "label_name", "category_name",
         "class_label", "given_label", "species", "tag", "y"},
    ),
}  # fmt: skip
# The last rank: a name that holds one of the first words and none of the second (image_width is no path).
_WORDS_IN = {
    "path": ({"path", "file", "filename", "filepath", "image", "img"}, {"label", "class", "category", "target", "id",
             "width", "height", "size", "url", "hash", "md5", "sha256", "format", "type", "split"}),
    "label": ({"label", "class", "category", "target"}, {"path", "file", "filename", "image", "img"}),
}  # fmt: skip


class ColumnError(UsageError):
    """Which column holds the paths, or the labels, is not clear."""

    def __init__(self, problem: str, *what: str):
        ones = "one" if len(what) == 1 else "ones"
        super().__init__(f"{problem} Name the right {ones} with {' and '.join(f'--{w}-column' for w in what)}.")
        self.without_option = f"{problem} Call the right {ones} {' and '.join(map(repr, what))}."


@contextmanager
def no_column_options() -> Iterator[None]:
    """For a table whose columns no option names: what is said of them advises none."""
    try:
        yield
    except ColumnError as error:
        raise UsageError(error.without_option) from None


def choose_both(
    columns: list[str], path: str | None, label: str | None, table: "Path | Remote | str"
) -> tuple[str, str]:
    """The columns of the paths and of the labels. Raises ColumnError, which speaks of both where neither is clear."""
    try:
        of_paths = choose(columns, "path", path, table)
    except ColumnError:
        try:
            choose(columns, "label", label, table)
        except ColumnError:
            problem = f"Which columns of {table} hold the paths and the labels is not clear. {_listed(columns)}"
            raise ColumnError(problem, "path", "label") from None
        raise
    return of_paths, choose(columns, "label", label, table)


def choose(columns: list[str], what: str, given: str | None, table: "Path | Remote | str") -> str:
    """The column of the "path" or the "label": the one given, else guessed by name. Raises ColumnError otherwise."""
    ending = _listed(columns)
    if given is not None:
        named = [name for name in columns if name == given] or [c for c in columns if c.lower() == given.lower()]
        if len(named) == 1:
            return named[0]
        raise ColumnError(f"{table} has {'several columns' if named else 'no column'} {given!r}. {ending}", what)
    wanted, unwanted = _WORDS_IN[what]
    words = {name: set(name.split("_")) for name in map(_snake, columns)}
    loose = {name for name in words if words[name] & wanted and not words[name] & unwanted}
    for names in (*_NAMES[what], loose):
        found = [column for column in columns if _snake(column) in names]
        if len(found) == 1:
            return found[0]
        if found:
            found_names = ", ".join(found)
            raise ColumnError(f"{table} has several columns that could be the {what}: {found_names}. {ending}", what)
    raise ColumnError(f"{table} has no column that is called like a {what}. {ending}", what)


def _listed(columns: list[str]) -> str:
    return f"The columns, in the first line, are: {', '.join(map(repr, columns))}."


def _snake(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip()).lower()).strip("_")
