"""WebDataset shards: a tar of images, several of them by a pattern, or a folder of tars.

The label of an image is what lies beside it in the tar: .cls, the field of its .json that is called like a label, or
.txt; or a table gives it to the image's key (`--labels`). Numbers of classes are names where classes.json (a list),
classnames.txt or classes.txt (a name a line) lies beside the shards. Only lists and labels are read here; what
cannot be read of a shard is a row that says why.
"""

import json
import os
from collections.abc import Iterator

from cleanweb import keyedlabels, shards
from cleanweb.errors import CrawlError, UsageError
from cleanweb.opening import opened
from cleanweb.packed import Samples
from cleanweb.readers import Crawl, Namings, Place, border, count, outside, printable
from cleanweb.records import Sample, Status

_CLASSES = ("classes.json", "classnames.txt", "classes.txt")
_MOST_BYTES = 16 << 20  # of the list of classes


def sniff(source: Place, labels: Place | None) -> bool:
    """A tar, a pattern of tars, or a folder that holds tars and no other images; with a table of labels or without."""
    return bool(shards.tars(source, border(source, False)))


def read(
    source: Place, labels: Place | None, path_column: str | None, label_column: str | None, allow_outside: bool = False
) -> Crawl:
    """See `cleanweb.readers.read`. Without a table label_column is cls, txt or a field of the .json."""
    if path_column and not labels:
        raise UsageError(f"{source} holds shards: --path-column needs a table, given with --labels.")
    root = shards.root_of(source)
    edge = border(root, allow_outside)
    choice = shards.LabelChoice(None if labels else label_column, _classes(root))
    namings, notes, strays = Namings(), list[str](), 0
    samples = Samples()
    names: list[list[str]] = []
    files = shards.tars(source, edge)
    for file in files:
        if outside(os.fspath(file), edge):
            raise CrawlError(f"{file} is a link that leads out of {root}. If that is yours, give --allow-outside.")
        tar = shards.Tar(printable(file.relative_to(root).as_posix()), os.fspath(file), allow_outside)
        try:
            with opened(tar.file) as stream:
                shard = shards.open_shard(*stream, choice)
        except OSError as error:
            status = Status.MISSING if isinstance(error, FileNotFoundError) else Status.ERROR
            samples.append(shards.broken(tar, f"the shard cannot be read: {error.strerror or error}", namings, status))
            names.append([tar.path])
            continue
        strays += shard.strays
        for sample, own in _samples(tar, shard, choice, namings):
            samples.append(sample)
            names.append(own)
    if labels:
        samples = keyedlabels.labelled(samples, names, labels, (path_column, label_column), namings)
    elif choice.ending:
        notes.append(f"the labels are {choice.words()} of {count(len(files), 'shard', 'shards')}")
    elif choice.doubt:
        notes.append(choice.doubt.replace("--label-column.", "--label-column, or give --labels."))
    if strays:
        notes.append(f"{count(strays, 'file', 'files')} in the shards that belong to no image were not read")
    return Crawl(root, samples, notes)


def _samples(
    tar: shards.Tar, shard: shards.Shard, choice: shards.LabelChoice, namings: Namings
) -> Iterator[tuple[Sample, list[str]]]:
    """Each with the names by which a table may mean it."""
    for picture in shard.pictures:
        sample = shards.sample(tar, shard, picture, choice.row(shard, picture), namings)
        first = picture.stem == picture.key or picture.key not in shard.plain
        own = [] if picture.again else [picture.name, picture.stem, *[picture.key] * first]
        yield sample, [*own, *(f"{tar.path}/{name}" for name in own)]
    if shard.broken:
        yield shards.broken(tar, shard.broken, namings), [tar.path]


def _classes(root: Place) -> list[str]:
    """The names of the classes by their numbers, if a list of them lies there."""
    file = next((root / name for name in _CLASSES if (root / name).is_file()), None)
    if file is None:
        return []
    try:
        with opened(os.fspath(file)) as (stream, _):
            text = stream.read(_MOST_BYTES).decode("utf-8-sig")
        names = json.loads(text) if file.suffix == ".json" else text.splitlines()
    except (ValueError, RecursionError, OSError) as error:
        raise CrawlError(f"{file}, the list of the classes, cannot be read: {error}.") from None
    return [str(name) for name in names] if isinstance(names, list) else []
