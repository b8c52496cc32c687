"""Which network a run uses, and where its weights come from: published ones, a file, a folder, or none."""

import logging
import os
import socket
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch

from cleanweb.errors import MachineError, UsageError, did_you_mean
from cleanweb.network import FROM_SCRATCH, SMALL, TimmModel

log = logging.getLogger(__name__)


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
        return f"local-dir:{model_folder(path)}"
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


def model_folder(path: Path) -> Path:
    """The folder of a model that can be loaded. Raises MachineError where it is none."""
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
