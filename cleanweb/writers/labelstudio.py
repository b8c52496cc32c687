"""Tasks for Label Studio, with what cleanweb believes as predictions, to be confirmed or corrected there.

    out/config.xml               the labeling interface
    out/tasks.json               a task an image: data (image, path, verdict …) and a prediction with its score
    out/README.txt               how to load them, with the paths of this crawl
    out/images/0000012.jpg       only images that have no file of their own, being embedded in Parquet

The images stay where they are and are served as local files, `/data/local-files/?d=…`, below the document root that
README.txt names: Label Studio refuses them unless it is told so twice, by that variable and by a storage.

Characters that XML cannot hold are written as escapes in the choices; `data` has every label as it is.
"""

import json
import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

from cleanweb import placing, safenames, writers
from cleanweb.errors import UsageError
from cleanweb.visible import visible

SUFFIX = ""
LABELLED = False

NO_CLASS = "none of the classes"  # the choice for images that are ood
_FIELDS = ("sample_id", "path", "label", "verdict", "given_label", "confidence")

_README = """How to load these images into Label Studio

1. Start it so that it may serve the files (Windows: set NAME=value first):
   LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true \\
   LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={root} label-studio start
2. Create a project. Settings, Labeling Interface, Code: paste config.xml.
3. Settings, Cloud Storage, Add Source Storage, Local Files, Absolute local path:
   {storage}
   Save it, and do not synchronise: the tasks come from the file.
4. Import: tasks.json. The predictions are there; Settings, Annotation: choose cleanweb for pre-labeling.
"""


def write(export: writers.Export) -> int:
    """Write the tasks to the folder `out`; returns how many of the images could be read."""
    images = export.images()
    labels = writers.labels_of(images)
    choices = _choices([*labels, *([NO_CLASS] if any(image.verdict == "ood" for image in images) else [])])
    with writers.draft(export.out, folder=True) as root:
        places = placing.beside(export.readable(), root, [image.format for image in images])
        files = {i: (export.out.absolute() / place).as_posix() for i, place in sorted(places.items())}
        storage = _common_folder(files.values())
        below = {i: Path(file).relative_to(storage.parent).as_posix() for i, file in files.items()}
        tasks = [_task(images[i], file, choices) for i, file in below.items()]
        (root / "tasks.json").write_text(json.dumps(tasks, ensure_ascii=False, indent=1), encoding="utf-8")
        (root / "config.xml").write_bytes(_config(choices.values()))
        readme = _README.format(root=shlex.quote(str(storage.parent)), storage=storage)
        (root / "README.txt").write_bytes(os.fsencode(readme))
    return len(places)


def _task(image: writers.Image, file: str, choices: dict[str, str]) -> dict[str, object]:
    data = {"image": f"/data/local-files/?d={quote(os.fsencode(file))}"} | {
        name: getattr(image, name) for name in _FIELDS
    }
    if image.split:
        data["split"] = image.split
    label = NO_CLASS if image.label is None and image.verdict == "ood" else image.label
    task: dict[str, object] = {"data": data}
    if label is not None:
        result = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [choices[label]]}}
        score = {} if image.confidence is None else {"score": image.confidence}
        task["predictions"] = [{"model_version": "cleanweb", **score, "result": [result]}]
    return task


def _choices(labels: Iterable[str]) -> dict[str, str]:
    """What each label is called in the interface: XML holds no control characters, and makes line ends spaces."""
    taken: set[str] = set()
    names: dict[str, str] = {}
    for label in labels:
        names[label] = next(n for n in safenames.candidates(visible(label), label) if n not in taken)
        taken.add(names[label])
    return names


def _config(choices: Iterable[str]) -> bytes:
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    group = ElementTree.SubElement(view, "Choices", name="label", toName="image", choice="single", showInline="true")
    for choice in choices:
        ElementTree.SubElement(group, "Choice", value=choice)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="utf-8") + b"\n"


def _common_folder(files: Iterable[str]) -> Path:
    """The smallest folder that all files lie in; it has a parent if that can be."""
    folders = {os.path.dirname(file) for file in files}  # noqa: PTH120 (a million files)
    try:
        return Path(os.path.commonpath(folders)) if folders else Path.cwd()
    except ValueError as error:
        raise UsageError(
            f"Label Studio serves the files of one folder, and these have none in common: {error}."
        ) from error
