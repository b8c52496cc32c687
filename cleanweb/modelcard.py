"""The card of a run's classifier: README.md in the form of the Hugging Face Hub. Built from the manifest alone.

What a class or a file is called comes from the web: it is shown, and is never Markdown, HTML or a line of its own.
Paths of this machine are left out, since cards are published.
"""

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleanweb import atomic, manifest
from cleanweb.visible import visible

_SHOWN = ("method", "recipe", "noise_rate", "tune", "epochs", "batch_size", "image_size", "seed", "pretrain",
          "hyperparameters")  # fmt: skip
_USE = "## Use\n"
_CLASSES = """SELECT label, images AS given, noise_rate AS noise, coalesce(trained, 0) AS trained FROM classes
    LEFT JOIN (SELECT final_label AS label, count(*) AS trained FROM trainable GROUP BY 1) USING (label)
    ORDER BY classes.rowid"""
_TOTALS = """SELECT count(*), count(predicted_label), count(*) FILTER (predicted_label = final_label) FROM trainable"""

USES = {
    "timm": """```python
import timm  # and, for cnn5 and cnn7: import cleanweb.network

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
logits = model(transform(image).unsqueeze(0))  # image: PIL, RGB
```""",
    "onnx": """```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(None, {"images": batch})  # batch: float32 (n, 3, side, side), prepared as above
```""",
    "torch-export": """```python
import torch

model = torch.export.load("model.pt2").module()
logits = model(batch)  # batch: float32 (n, 3, side, side), prepared as above
```""",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """What a card tells of a run, of its manifest."""

    run: dict[str, Any]  # the row of the table runs
    classes: list[dict[str, Any]]  # label, given, noise; and trained: pictures with this final label, without copies
    verdicts: dict[str, int]  # verdict → rows
    trained: int  # pictures with a final label, without copies
    judged: int  # of these: those that a model has predicted
    agreeing: int  # of these: as their final label


def figures(run: Path) -> Figures:
    """Of a finished run. Raises RunError where there is no manifest."""
    with manifest.attached(run):
        made = manifest.read(run, "runs").iloc[0].to_dict()
        classes = manifest.rows(run, _CLASSES).to_dict("records")
        verdicts = manifest.rows(run, "SELECT verdict::VARCHAR AS verdict, count(*) AS n FROM images GROUP BY 1")
        [totals] = manifest.rows(run, _TOTALS).itertuples(index=False)
    return Figures(made, classes, dict(zip(verdicts["verdict"], verdicts["n"], strict=True)), *map(int, totals))


def write(classifier: Path, run: Path) -> None:
    """Write README.md beside the classifier's config.json. run: the folder of the manifest that it was trained on. Does
    nothing where there is no classifier; raises MachineError where the disk refuses."""
    if (classifier / "config.json").exists():
        config = json.loads((classifier / "config.json").read_text(encoding="utf-8"))
        atomic.write_text(classifier / "README.md", text(config, figures(run)))


def text(config: dict[str, Any], told: Figures, use: str = "timm") -> str:
    """The card. config: the classifier's config.json."""
    parts = [_head(config), _preparation(config), _data(told), _classes(told), _quality(told), _limits(),
             _how(told.run)]  # fmt: skip
    return for_use("\n".join([*parts, _USE]), use)


def for_use(card: str, use: str) -> str:
    """The card with the lines that open the classifier in another form."""
    return f"{card.partition(_USE)[0]}{_USE}\n{USES[use]}\n"


def _head(config: dict[str, Any]) -> str:
    name = f"{config['architecture']}, {config['num_classes']} classes"
    head = ["---", "library_name: timm", "pipeline_tag: image-classification", "tags:", "- image-classification",
            "- timm", "- noisy-labels", "- cleanweb", "---", "",
            f"# Image classifier: {_inline(name)}", ""]  # fmt: skip
    words = (
        "Trained by cleanweb on a crawled image set: on the labels that were left and suggested after its noisy ones "
    )
    return "\n".join(
        [*head, f"{words}were judged. Its weights start from those of its backbone, whose licence holds.", ""]
    )


def _preparation(config: dict[str, Any]) -> str:
    pixels = config["pretrained_cfg"]
    side = pixels["input_size"][-1]
    return (f"## Preparation of images\n\nRGB, EXIF orientation applied; the middle square, resized to {side} × {side} "
            f"px ({pixels['interpolation']}); divided by 255; less mean {list(pixels['mean'])}, divided by standard "
            f"deviation {list(pixels['std'])}, per channel. The classes stand in config.json (`label_names`) in the "
            "order of the logits.\n")  # fmt: skip


def _data(told: Figures) -> str:
    run, names = told.run, ("clean", "relabeled", "ood", "unusable")
    counts = ", ".join(f"{told.verdicts.get(name, 0):,} {name}" for name in names)
    noise = "was not estimated"
    if run["noise_rate"] == run["noise_rate"] and run["noise_rate"] is not None:  # not NaN
        noise = f"is {run['noise_rate']:.1%} (95 % interval {run['noise_low']:.1%} to {run['noise_high']:.1%})"
    total = sum(told.verdicts.values())
    return (f"## Data\n\n{total:,} rows of a crawl: {counts}. Trained on {told.trained:,} pictures, copies left out. "
            f"The estimated share of usable pictures that were given a wrong label {noise}.\n")  # fmt: skip


def _classes(told: Figures) -> str:
    rows = ["| class | given | trained on | estimated noise |", "|---|---|---|---|"]
    for row in told.classes:
        rate = f"{row['noise']:.0%}" if row["noise"] is not None and row["noise"] == row["noise"] else ""
        rows.append(f"| {_inline(row['label'])} | {row['given']:,} | {row['trained']:,} | {rate} |")
    return "\n".join(["## Classes", "", *rows, ""])


def _quality(told: Figures) -> str:
    agreement = "none of the pictures"
    if told.judged:
        agreement = f"{told.agreeing / told.judged:.1%} of these {told.judged:,} pictures"
    return ("## Quality\n\nNo accuracy was measured: there are no images whose labels are known for sure and that it "
            f"was not trained on. The model that judged the labels predicts the final label of {agreement}, which it "
            "decided itself: that is agreement, not accuracy. `cleanweb audit` measures how many labels are right; "
            "measure the classifier on labelled images of your own.\n")  # fmt: skip


def _limits() -> str:
    return ("## Limits\n\nIt knows its classes only and gives one of them to any image. What the crawl got wrong "
            "systematically (every logo found under one class) it has learned. Classes with few or noisy images above "
            "are the least certain. Its probabilities are not calibrated.\n")  # fmt: skip


def _how(run: Mapping[str, Any]) -> str:
    settings, versions = json.loads(run["settings"]), json.loads(run["versions"])
    shown = {name: settings[name] for name in _SHOWN if settings.get(name) not in (None, {}, "")}
    backbone = re.split(r"[/\\]", str(settings.get("backbone", "auto")).rstrip("/\\"))[-1]
    lines = [f"- backbone: {_inline(backbone)}", *(f"- {name}: {_inline(str(value))}" for name, value in shown.items())]
    libraries = ", ".join(f"{name} {number}" for name, number in versions.items())
    finished = f"{run['finished_at']:%Y-%m-%d}"
    return "\n".join(["## How it was made", "", f"cleanweb {run['cleanweb_version']}, {finished}; {libraries}.", "",
                      *lines, ""])  # fmt: skip


def _inline(text: str) -> str:
    """Text of the crawl, as itself: control characters are shown, Markdown and HTML are not obeyed."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~:-])", r"\\\1", html.escape(visible(text), quote=False))
