"""The card of a run's classifier: README.md in the form of the Hugging Face Hub. Built from the manifest alone.

What a class or a file is called comes from the web: it is shown, and is never Markdown, HTML or a line of its own.
Paths of this machine are left out, since cards are published.
"""

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleanweb import atomic

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = ("method", "recipe", "noise_rate", "tune", "epochs", "batch_size", "image_size", "seed", "pretrain",
          "hyperparameters")  # fmt: skip
_USE = "## Use\n"

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


def write(classifier: Path, tables: "Mapping[str, pd.DataFrame]") -> None:
    """Write README.md beside the classifier's config.json. tables: of the manifest, as the classifier was trained on
    them. Does nothing where there is no classifier; raises MachineError where the disk refuses."""
    if (classifier / "config.json").exists():
        config = json.loads((classifier / "config.json").read_text(encoding="utf-8"))
        atomic.write_text(classifier / "README.md", text(config, tables))


def text(config: dict[str, Any], tables: "Mapping[str, pd.DataFrame]", use: str = "timm") -> str:
    """The card. config: the classifier's config.json."""
    run = tables["runs"].iloc[0]
    parts = [
        _head(config),
        _preparation(config),
        _data(tables),
        _classes(tables),
        _quality(tables),
        _limits(),
        _how(run),
    ]
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


def _data(tables: "Mapping[str, pd.DataFrame]") -> str:
    images, run = tables["images"], tables["runs"].iloc[0]
    verdicts = images["verdict"].value_counts()
    counts = ", ".join(f"{int(verdicts.get(name, 0)):,} {name}" for name in ("clean", "relabeled", "ood", "unusable"))
    kept = int((images["final_label"].notna() & images["duplicate_of"].isna()).sum())
    noise = "was not estimated"
    if run["noise_rate"] == run["noise_rate"] and run["noise_rate"] is not None:  # not NaN
        noise = f"is {run['noise_rate']:.1%} (95 % interval {run['noise_low']:.1%} to {run['noise_high']:.1%})"
    return (f"## Data\n\n{len(images):,} rows of a crawl: {counts}. Trained on {kept:,} pictures, copies left out. The "
            f"estimated share of usable pictures that were given a wrong label {noise}.\n")  # fmt: skip


def _classes(tables: "Mapping[str, pd.DataFrame]") -> str:
    images = tables["images"]
    trained = images[images["duplicate_of"].isna()]["final_label"].value_counts()
    rows = ["| class | given | trained on | estimated noise |", "|---|---|---|---|"]
    for label, given, noise in tables["classes"][["label", "images", "noise_rate"]].itertuples(index=False):
        rate = f"{noise:.0%}" if noise is not None and noise == noise else ""
        rows.append(f"| {_inline(label)} | {given:,} | {int(trained.get(label, 0)):,} | {rate} |")
    return "\n".join(["## Classes", "", *rows, ""])


def _quality(tables: "Mapping[str, pd.DataFrame]") -> str:
    images = tables["images"]
    judged = images[images["final_label"].notna() & images["duplicate_of"].isna() & images["predicted_label"].notna()]
    agree = (judged["predicted_label"] == judged["final_label"]).mean() if len(judged) else float("nan")
    agreement = f"{agree:.1%} of these {len(judged):,} pictures" if len(judged) else "none of the pictures"
    return ("## Quality\n\nNo accuracy was measured: there are no images whose labels are known for sure and that it "
            f"was not trained on. The model that judged the labels predicts the final label of {agreement}, which it "
            "decided itself: that is agreement, not accuracy. `cleanweb audit` measures how many labels are right; "
            "measure the classifier on labelled images of your own.\n")  # fmt: skip


def _limits() -> str:
    return ("## Limits\n\nIt knows its classes only and gives one of them to any image. What the crawl got wrong "
            "systematically (every logo found under one class) it has learned. Classes with few or noisy images above "
            "are the least certain. Its probabilities are not calibrated.\n")  # fmt: skip


def _how(run: "pd.Series") -> str:
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
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return re.sub(r"([\\`*_{}\[\]()#+!|~:-])", r"\\\1", html.escape(shown, quote=False))
