"""The retrained classifier on disk, in timm's own layout."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from cleanweb import atomic
from cleanweb.backbone import Backbone, model_folder
from cleanweb.errors import RunError
from cleanweb.network import TimmModel


def save_classifier(model: TimmModel, folder: Path, class_names: list[str], size_px: int) -> None:
    """Write config.json + model.safetensors in timm's own layout, with the class names in logit order and how the
    images were made that it was trained on (`pixelcache.centre_square`): timm's own transform makes them alike."""
    from timm.models import save_for_hf

    model.pretrained_cfg = dict(model.pretrained_cfg) | {
        "input_size": (3, size_px, size_px), "crop_pct": 1.0, "crop_mode": "center", "interpolation": "lanczos",
    }  # fmt: skip

    model_config = {"label_names": class_names, "num_classes": len(class_names)}
    model = model.cpu().to(memory_format=torch.contiguous_format)  # safetensors takes no other
    with atomic.told(folder):
        try:
            save_for_hf(model, str(folder), model_config=model_config, safe_serialization=True)
        except SafetensorError as error:  # a full disk, in words of its own
            raise OSError(str(error)) from error


def load_classifier(folder: Path) -> tuple[TimmModel, list[str]]:
    """The classifier of a run, in evaluation mode, and its class names in logit order.

    Raises RunError where the folder holds something else, MachineError where its weights cannot be loaded.
    """
    folder = model_folder(Path(folder))
    config = folder / "config.json"
    try:
        names = _label_names(json.loads(config.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{config} is not the configuration of a cleanweb classifier.") from error
    return Backbone(f"local-dir:{folder}", True).build(len(names)).eval(), names


def _label_names(config: Any) -> list[str]:
    """Of a classifier's configuration, where it is one that `save_classifier` could have written."""
    names, pixels = config["label_names"], config["pretrained_cfg"]
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise ValueError("no list of names")
    channels, height, width = pixels["input_size"]
    if channels != 3 or height != width or height not in range(16, 4097):
        raise ValueError("no size of a picture")
    if not all(isinstance(x, int | float) and 0 <= x <= 1 for x in (*pixels["mean"], *pixels["std"])):
        raise ValueError("no mean and standard deviation of pixels")
    return names
