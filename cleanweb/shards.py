"""The images of a tar shard, and what the files beside each say of it: its label, its address.

    0000012.jpg      an image: any member that ends in one of `IMAGES`
    0000012.cls      what belongs to it: the same name up to its ending, or up to its first dot (for 0000012.left.jpg)
    0000012.json     label, url, sha256 …; 0000012.txt: a label, too

The order of the members does not matter. Where there is a.jpg, a.mask.png is a further image of the same sample.
Memory: a record of some hundred bytes per image, and what is said of it, of one shard.
"""

import fnmatch
import glob
import json
import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from cleanweb.columns import choose
from cleanweb.errors import CrawlError, UsageError
from cleanweb.labelrows import Labels, Row
from cleanweb.readers import Namings, Place, hidden, only, printable
from cleanweb.records import MOST_BYTES, Sample, Status
from cleanweb.remote import Remote, place
from cleanweb.tarmembers import BLOCK, BrokenTar, Member, members

IMAGES = {"jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "ppm", "pgm", "pbm", "pnm",
          "jp2", "heic", "heif", "ico", "tga", "img", "image"}  # fmt: skip
SAYING = ("cls", "json", "txt")  # what may say the label, the surest first
MOST_SHARDS = 1_000_000
MOST_ASKED = 500  # JSON files of which each is looked at for the field of the label: the first need not have it
MOST_SAID_BYTES = 1 << 16  # a class, or some facts: what is longer is none
_ORIGIN = ("url", "sha256")  # what a JSON file may say beside the label


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of a shard, or a sample that has none."""

    stem: str  # the member's name without its ending
    name: str  # of the member; where there is no image, of the sample
    member: Member | None  # None where there is no image
    again: bool = False  # the shard has had this name before

    @property
    def key(self) -> str:
        """The sample's name, as WebDataset cuts it: up to the first dot."""
        return _key(self.stem)


@dataclass(slots=True)
class Shard:
    """What one tar holds."""

    pictures: list[Picture] = field(default_factory=list)
    said: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)  # (stem, ending) → "label" and `_ORIGIN`
    broken: str = ""  # why the list of its members breaks off, in words
    strays: int = 0  # files that belong to no image
    plain: set[str] = field(default_factory=set)  # keys that have an image without a second dot

    def says(self, picture: Picture, ending: str) -> dict[str, Any] | None:
        """What the file of that ending says of an image; None where there is none."""
        own = self.said.get((picture.stem, ending))
        return self.said.get((picture.key, ending)) if own is None else own

    def origin(self, picture: Picture) -> dict[str, str]:
        """Its url and sha256, where they are said."""
        found = self.says(picture, "json") or {}
        return {name: printable(found[name]) for name in _ORIGIN if isinstance(found.get(name), str)}


class LabelChoice:
    """Which file beside an image says its label: that which is asked for, else, in the whole crawl, the surest that the
    first shard with labels has."""

    def __init__(self, asked: str | None = None, names: Iterable[str] = ()):
        """asked: cls, txt, or the field of the JSON files. names: of the classes, by their numbers in .cls."""
        self.ending = None if asked is None else asked if asked in ("cls", "txt") else "json"
        self.field = asked if self.ending == "json" else None
        self.names, self.labels, self.doubt, self.asked = list(names), Labels("the shards"), "", 0

    def row(self, shard: Shard, picture: Picture) -> Row:
        """The label of a picture of a shard that was opened with this choice, and why it has none."""
        if self.ending is None:
            has = {ending for (_, ending), said in shard.said.items() if said.get("label") is not None}
            self.ending = next((ending for ending in SAYING if ending in has), None)
        said = shard.says(picture, self.ending or "cls")
        if said is None:
            return Row(picture.name, None, why=f"no .{self.ending or 'cls'} says its label")
        try:
            row = self.labels.row(picture.name, said.get("label"))
        except UsageError:
            return Row(picture.name, None, why="its label is a list, and no name")
        return self._named(row) if self.ending == "cls" and self.names else row

    def words(self) -> str:
        """Where the labels come from."""
        return f"the field {self.field!r} of the .json" if self.ending == "json" else f"the .{self.ending}"

    def reduced(self, said: dict[str, Any]) -> dict[str, Any]:
        """A JSON object's label and origin."""
        if self.field is None and self.asked < MOST_ASKED and self.ending in (None, "json"):
            try:
                self.field = choose(list(said), "label", None, "the .json of the shards")
            except UsageError as error:  # others may say it; else the first of these is told
                several = "has several" in str(error)  # then a person must choose
                self.doubt = str(error) if several else self.doubt or str(error)
                self.asked = MOST_ASKED if several else self.asked + 1
        return {"label": said.get(self.field or "")} | {name: said[name] for name in _ORIGIN if name in said}

    def _named(self, row: Row) -> Row:
        number = row.label or ""
        if not number.lstrip("-").isdigit() or len(number) > 9:
            return row
        if 0 <= int(number) < len(self.names):
            return Row(row.path, self.names[int(number)])
        return Row(row.path, None, why=f"its class is {number}, which is none of {len(self.names)}")


def open_shard(tar: BinaryIO, n_bytes: int, choice: LabelChoice) -> Shard:
    """List a tar's images and read what is said of them; of a broken one, as far as it goes."""
    shard, seen = Shard(), set[str]()
    others: dict[str, None] = {}  # the keys of what is said
    try:
        for member in members(tar, n_bytes):
            _take(shard, tar, member, choice, seen, others)
    except (BrokenTar, OSError) as error:
        shard.broken = str(error)
    keys = {key for picture in shard.pictures for key in (picture.stem, picture.key)}
    shard.pictures += [Picture(key, key, None) for key in others if key not in keys]
    return shard


def _take(
    shard: Shard, tar: BinaryIO, member: Member, choice: LabelChoice, seen: set[str], others: dict[str, None]
) -> None:
    name = printable(member.name.removeprefix("./"))
    folder, base = posixpath.split(name)
    if member.kind == "a folder" or hidden(base) or (base.startswith("__") and base.endswith("__")):
        return
    start, _, ending = base.rpartition(".")
    stem, ending = posixpath.join(folder, start), ending.lower()
    if start and ending in IMAGES:
        shard.pictures.append(Picture(stem, name, member, name in seen))
        seen.add(name)
        if stem == _key(stem):
            shard.plain.add(stem)
    elif start and ending in SAYING:
        others[_key(stem)] = None
        if not member.kind and not member.cut and member.size <= MOST_SAID_BYTES:
            tar.seek(member.place + BLOCK)
            shard.said.setdefault((stem, ending), _said(tar.read(member.size), ending, choice))
    else:
        shard.strays += 1


def _said(content: bytes, ending: str, choice: LabelChoice) -> dict[str, Any]:
    text = content.decode("utf-8", "backslashreplace")
    if ending != "json":
        return {"label": text.strip() or None}
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return choice.reduced(said) if isinstance(said, dict) else {}


def _key(stem: str) -> str:
    folder, base = posixpath.split(stem)
    return posixpath.join(folder, base.partition(".")[0])


# --- images → samples -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tar:
    """Where a shard lies."""

    path: str  # in the crawl
    file: str  # absolute
    allow_outside: bool = False  # read images whose names lead out of it, too


def sample(tar: Tar, shard: Shard, picture: Picture, row: Row, namings: Namings) -> Sample:
    """A picture of a shard as a sample."""
    path, member = f"{tar.path}/{picture.name}", picture.member
    status, note = _state(tar, shard, picture, row)
    if member is None or status == Status.OUTSIDE:
        return Sample(namings.sample_id(path), path, "", None, row.label, status, note)
    return Sample(namings.sample_id(path), path, tar.file, member.place, row.label, status, note,
                  **shard.origin(picture))  # fmt: skip


def _state(tar: Tar, shard: Shard, picture: Picture, row: Row) -> tuple[Status, str]:
    member = picture.member
    if member is None:
        return Status.MISSING, "the sample holds no image"
    if not tar.allow_outside and (picture.name.startswith("/") or ".." in picture.name.split("/")):
        return Status.OUTSIDE, "its name in the tar leads out of the shard"
    if member.kind:
        return Status.MISSING, f"the member of the tar is {member.kind}"
    if member.cut:
        return Status.TRUNCATED, "the shard ends within it"
    if member.size > MOST_BYTES:
        return Status.TOO_LARGE, f"{member.size:,} bytes; the limit is {MOST_BYTES:,}"
    if picture.again:
        return Status.REPEATED, "the shard has this name more than once; the first is read"
    if picture.stem != picture.key and picture.key in shard.plain:
        return Status.UNLABELED, f"a further image of the sample {picture.key}"
    return (Status.UNLABELED, row.why) if row.label is None else (Status.OK, "")


def broken(tar: Tar, words: str, namings: Namings, status: Status = Status.ERROR) -> Sample:
    """The row that stands for what cannot be read of a shard."""
    return Sample(namings.sample_id(tar.path), tar.path, "", None, None, status, words)


# --- which shards ---------------------------------------------------------------------------------------------------


def tars(source: Place, edge: str | None = None) -> list[Place]:
    """The shards that a source means, absolute: a tar, a pattern as images-{000..017}.tar or images-*.tar, or a folder
    that holds tars and no other images; none where it means something else. edge: see `readers.border`."""
    if source.is_dir():
        return [place(file) for file in only(source, ".tar", edge)]
    if source.suffix.lower() != ".tar" or source.is_file():
        return [source] if source.suffix.lower() == ".tar" else []
    named = [place(name) for name in expanded(os.fspath(source))]
    found = [file for name in named for file in _globbed(name)]
    if not any(file.exists() for file in found):
        raise CrawlError(f"Nothing found at {source}: looked for the shards there. Check the spelling.")
    return found


def expanded(pattern: str) -> list[str]:
    """With every {000..017} and {a,b} written out, in order."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        return [pattern]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if span:
        first, last = int(span[1]), int(span[2])
        if last - first >= MOST_SHARDS:
            raise UsageError(f"{pattern} means {last - first + 1:,} shards; at most {MOST_SHARDS:,} can be read.")
        choices = [str(n).zfill(len(span[1])) for n in range(first, last + 1)]
    else:
        choices = found[1].split(",")
    return [rest for choice in choices for rest in
            expanded(pattern[: found.start()] + choice + pattern[found.end() :])]  # fmt: skip


def _globbed(path: Place) -> list[Place]:
    if path.exists() or not glob.has_magic(os.fspath(path)):
        return [path]
    if isinstance(path, Remote):
        there = only(_without_magic(path), ".tar")
        return [Remote(file) for file in there if fnmatch.fnmatchcase(file, path.url)]
    return [Path(file) for file in sorted(glob.glob(os.fspath(path)))]  # noqa: PTH207 (Path.glob takes no absolute ones)


def root_of(source: Place) -> Place:
    """The crawl folder of shards: the folder given, or that in which the first pattern of a name begins."""
    if source.is_dir():
        return source
    if isinstance(source, Remote):
        return _without_magic(source)
    folder = source.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def _without_magic(source: Remote) -> Remote:
    """The folder up to the first name that is a pattern."""
    folder = source.parent
    while glob.has_magic(folder.url) or "{" in folder.url:
        folder = folder.parent
    return folder
