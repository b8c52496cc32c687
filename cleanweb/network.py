"""Networks: timm's, the paper's 7-layer CNN and a smaller one, heads, mean teachers, twins.

Every network here is a timm model, so that what is saved opens with `timm.create_model('local-dir:…')`.
"""

import copy
import logging
from collections.abc import Callable
from typing import Any, cast

import torch
from timm.models import build_model_with_cfg, register_model
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

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
