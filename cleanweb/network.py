"""The network: a timm backbone or the paper's 7-layer CNN, its mean teacher, and the classifier on disk.

Every network here is a timm model, so that what is saved opens with `timm.create_model('local-dir:…')`.
"""

import copy
import json
import logging
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError
from timm.models import build_model_with_cfg, register_model
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from cleanweb import atomic
from cleanweb.errors import MachineError, RunError, UsageError, did_you_mean
from cleanweb.machine import autocast

log = logging.getLogger(__name__)

FROM_SCRATCH = ("cnn7", "cnn5")  # there are no published weights for these
SMALL = "cnn5"  # what is trained where weights cannot be had


class PlainCNN(nn.Module):
    """3×3 convolutions with batch norm and ReLU, halved in size after some, and one linear layer.

    Images (n, 3, h, w) → features (n, d) → logits (n, c). Whatever the size of the images, the last map is pooled to
    `side` × `side`.
    """

    def __init__(self, widths: tuple[int, ...], halve: tuple[int, ...], side: int, num_classes: int = 1000,
                 in_chans: int = 3, **_: Any):  # fmt: skip
        super().__init__()
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip((in_chans, *widths), widths, strict=False)):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
            layers += [nn.ReLU(inplace=True)] + ([nn.MaxPool2d(2)] if i in halve else [])
        self.body = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(side)
        self.num_features = widths[-1] * side**2
        self.reset_classifier(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.body(x)
        return maps

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.pool(x).flatten(1)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.fc: nn.Module = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()


_PLAIN = {
    "input_size": (3, 32, 32), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "crop_pct": 1.0,
    "interpolation": "bicubic", "classifier": "fc", "first_conv": "body.0", "num_classes": 1000, "pool_size": (4, 4),
}  # fmt: skip


def _plain(name: str, pretrained: bool, kwargs: dict[str, Any], **shape: Any) -> nn.Module:
    config = kwargs.pop("pretrained_cfg", None) or _PLAIN
    return build_model_with_cfg(PlainCNN, name, pretrained, pretrained_cfg=config, **shape, **kwargs)


@register_model
def cnn7(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The 7-layer CNN of JoCoR and Jo-SRC, for 32 px: 112 million multiplications an image."""
    return _plain("cnn7", pretrained, kwargs, widths=(64, 64, 128, 128, 196, 16), halve=(1, 3, 5), side=4)


@register_model
def cnn5(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A small CNN for 32 px that learns a few hundred images in a minute on a CPU: 15 million multiplications."""
    return _plain("cnn5", pretrained, kwargs, widths=(32, 64, 128, 128), halve=(0, 1, 2), side=2)


class TimmModel(nn.Module):
    """What timm promises of its models, and does not declare: never made, only named in types."""

    pretrained_cfg: dict[str, Any]
    forward_features: Callable[[Tensor], Tensor]
    forward_head: Callable[..., Tensor]  # (x, pre_logits=False)
    get_classifier: Callable[[], nn.Linear]


class Network(nn.Module):
    """A timm model that gives logits and features at once; float32 out, whatever is computed inside."""

    def __init__(self, model: TimmModel, pretrained: bool = False):
        super().__init__()
        self.model, self.pretrained = model, pretrained

    @property
    def n_features(self) -> int:
        return self.model.get_classifier().in_features

    def from_scratch(self) -> nn.Module:
        """The part that was drawn at random: all of it, or the new classifier on published weights."""
        return self.model.get_classifier() if self.pretrained else self.model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (n, 3, h, w), normalised → logits (n, c), features (n, d)."""
        with autocast(images.device):
            features = self.model.forward_head(self.model.forward_features(images), pre_logits=True)
            logits = self.model.get_classifier()(features)
        return logits.float(), features.float()


class FeatureHead(nn.Module):
    """A linear classifier on frozen features, standardised; folds into the backbone's own classifier layer."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, n_classes: int):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.fc = nn.Linear(len(mean), n_classes)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    @property
    def n_features(self) -> int:
        return self.fc.in_features

    def from_scratch(self) -> nn.Module:
        return self.fc

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (n, d) → logits (n, c), the same features."""
        return self.fc((features - self.mean) / self.std), features

    @torch.no_grad()
    def fold_into(self, layer: nn.Linear) -> None:
        """Write this head into a linear layer that takes the features as they are."""
        weight = self.fc.weight / self.std
        layer.weight.copy_(weight)
        layer.bias.copy_(self.fc.bias - weight @ self.mean)


AnyNetwork = Network | FeatureHead  # what a method trains


class MeanTeacher(nn.Module):
    """θ_mt ← ω·θ_mt + (1 − ω)·θ after every step, Jo-SRC Eq. 8; batch-norm statistics follow the same way."""

    def __init__(self, student: AnyNetwork, omega: float):
        super().__init__()
        self.ema = ModelEmaV3(student, decay=omega)
        self.network.requires_grad_(False)
        self.paused = False  # while a step is put together of the parts of a batch

    @property
    def network(self) -> AnyNetwork:
        """θ_mt as a network of its own."""
        return cast(AnyNetwork, self.ema.module)

    def update(self, student: AnyNetwork) -> None:
        if not self.paused:
            self.ema.update(student)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, c) and features (n, d) in evaluation mode, without gradient."""
        logits, features = self.network.eval()(images)
        return logits, features


@torch.no_grad()
def predicted(network: AnyNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (n, c) and features (n, d), in evaluation mode and without gradient."""
    logits, features = network.eval()(images)
    return logits.softmax(1), features


def twin(network: AnyNetwork) -> AnyNetwork:
    """A second network of the same kind that starts elsewhere; what it has of published weights stays.

    Drawn as torch draws new layers, from its global generator: seed that first. A head is drawn small instead of zero,
    since two that start alike and see the same stay alike.
    """
    other = copy.deepcopy(network)
    for layer in other.from_scratch().modules():
        if callable(reset := getattr(layer, "reset_parameters", None)):
            reset()
    return other


class Twins(nn.Module):
    """Two networks that start apart and see the same images; no mean teacher. The first one is believed."""

    def __init__(self, network: AnyNetwork):
        super().__init__()
        self.network, self.peer = network, twin(network)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (n, …) → logits (n, c) of either network."""
        return self.network(images)[0], self.peer(images)[0]

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return predicted(self.network, images)

    def trained(self) -> AnyNetwork:
        return self.network


@dataclass(frozen=True)
class Backbone:
    """Which network, and where its weights come from."""

    name: str  # as timm takes it: resnet50.a1_in1k, hf-hub:…, local-dir:…, cnn7
    pretrained: bool
    checkpoint: Path | None = None  # a file of weights to load instead of the published ones
    why: str = ""  # said to the user where it is not what was asked for

    def mark(self) -> list[object]:
        """What it would not be the same network without."""
        return [self.name, self.pretrained, str(self.checkpoint)]

    def build(self, n_classes: int) -> TimmModel:
        """The timm model with a new classifier of n_classes outputs (0: features only)."""
        overlay = None if self.checkpoint is None else {"file": str(self.checkpoint)}
        try:
            model = timm.create_model(
                self.name, pretrained=self.pretrained, pretrained_cfg_overlay=overlay, num_classes=n_classes
            )
        except Exception as error:  # timm raises whatever its parsers raise; a user gets one sentence
            source = self.checkpoint or self.name
            raise MachineError(f"The backbone {self.name!r} could not be built from {source}: {error}") from error
        return cast(TimmModel, model)

    def config(self) -> dict[str, Any]:
        """timm's pretrained_cfg: input_size (c, h, w), mean, std … without building the weights."""
        with torch.device("meta"):
            model = cast(TimmModel, timm.create_model(self.name, pretrained=False, num_classes=0))
        return model.pretrained_cfg


def choose_backbone(name: str, weights: str, default: str) -> Backbone:
    """Turn `--backbone` and `--weights` into a Backbone whose weights are there.

    name: 'auto' (the default for the device), a timm name, 'timm/…', 'hf-hub:…', 'local-dir:…', a folder, or 'cnn7'.
    weights: 'auto' (published weights if they can be had, else a small network from scratch), 'pretrained', 'none', or
    a checkpoint file. Raises UsageError for an unknown name, MachineError naming the file that cannot be had.
    """
    name = _full_name(default if name == "auto" else name)
    if weights not in ("auto", "pretrained", "none"):
        return Backbone(name, True, checkpoint=_checkpoint_file(weights))
    if weights == "none" or (name in FROM_SCRATCH and weights == "auto"):
        return Backbone(name, False)
    if name in FROM_SCRATCH:
        raise UsageError(f"There are no published weights for {name}. Use --weights none, or name another --backbone.")
    missing = _missing_weights(name)
    if missing is None:
        return Backbone(name, True)
    if weights == "pretrained":
        raise MachineError(missing)
    why = f"{missing} Going on with {SMALL}, a small network trained from scratch: expect much weaker verdicts."
    log.warning(why)
    return Backbone(SMALL, False, why=why)


def _full_name(name: str) -> str:
    """The name as timm takes it; raises UsageError where nothing of that name exists."""
    path = Path(name.removeprefix("local-dir:")).expanduser()
    if name.startswith("local-dir:") or path.is_dir():
        return f"local-dir:{_model_folder(path)}"
    if path.is_file():
        raise UsageError(f"--backbone {name} is a file of weights, which does not say what network it is for. "
                         f"Use --backbone NAME --weights {name}.")  # fmt: skip
    if name.startswith("timm/"):
        return f"hf-hub:{name}"
    if not name.startswith("hf-hub:") and not timm.is_model(name.split(".", maxsplit=1)[0]):
        if "/" in name or os.sep in name:
            raise UsageError(f"There is no folder {name} to take the backbone from. One of the hub is hf-hub:{name}.")
        near = timm.list_models(f"*{name.split('.', maxsplit=1)[0]}*")[:5]
        hint = f" Near it: {', '.join(near)}." if near else did_you_mean(name, timm.list_models())
        raise UsageError(f"timm knows no backbone {name!r}.{hint or ' See timm.list_models().'}")
    return name


def _model_folder(path: Path) -> Path:
    if not (path / "config.json").is_file():
        raise MachineError(f"There is no model in {path}: looked for {path / 'config.json'}.")
    if not (path / "model.safetensors").is_file():  # timm would take others, too
        raise MachineError(f"There are no weights in {path}: looked for {path / 'model.safetensors'}. Other formats "
                           "are not loaded, since they can run code.")  # fmt: skip
    return path.resolve()


def _checkpoint_file(weights: str) -> Path:
    path = Path(weights).expanduser()
    if not path.is_file():
        raise MachineError(f"There is no weights file {path}. --weights takes auto, pretrained, none or a file.")
    if path.suffix != ".safetensors":
        raise UsageError(f"{path.name}: only .safetensors files are loaded, since other formats can run code.")
    return path.resolve()


def _missing_weights(name: str) -> str | None:
    """None where the published weights are on this machine or can be fetched; else what is missing, in words."""
    if name.startswith("local-dir:"):
        return None
    repository = name.removeprefix("hf-hub:")
    if not name.startswith("hf-hub:"):
        try:
            config = timm.get_pretrained_cfg(name, allow_unregistered=False)
        except RuntimeError as error:
            raise UsageError(f"timm knows no backbone {name!r}: {error}") from error
        if config is None or not (config.hf_hub_id or config.url):
            return f"timm has no published weights for {name}."
        if not config.hf_hub_id:
            return f"The weights of {name} are not on the hub. Fetch {config.url} and give --weights FILE."
        repository = config.hf_hub_id
        repository = f"timm/{name}" if repository == "timm/" else repository
    if _in_cache(repository) or _hub_answers():
        return None
    file = f"https://huggingface.co/{repository}/resolve/main/model.safetensors"
    return (f"The weights of {name} are not on this machine and the hub cannot be reached. Fetch {file} and "
            f"config.json beside it into a folder, and give --backbone local-dir:FOLDER.")  # fmt: skip


def _in_cache(repository: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(repository, file), str) for file in files)


def _hub_answers(timeout_s: float = 3.0) -> bool:
    """One short knock, since the hub's own client retries for a minute."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    if urllib.request.getproxies().get("https"):
        return True  # a proxy resolves names for us: only the download itself can tell
    host = urllib.parse.urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname or ""
    try:
        socket.create_connection((host, 443), timeout=timeout_s).close()
    except OSError:
        return False
    return True


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
    folder = _model_folder(Path(folder))
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
