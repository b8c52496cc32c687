"""How we learn from noisy labels: the contract that every method keeps, and the list of them.

A method is a generator of losses. `epoch` yields one loss per optimiser step and runs on after that step, so that an
algorithm reads as it is printed; the loop in `train.py` knows no method. Whatever must survive a restart is a submodule
or a buffer: `state_dict()` is the whole checkpoint. Never yield inside `no_grad` or `autocast`; a loss is finite and
reaches every parameter even when nothing is selected.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, cast

import torch
from torch import Generator, Tensor, nn

if TYPE_CHECKING:
    from cleanweb.network import AnyNetwork
    from cleanweb.settings import Recipe

# method → recipe → class, as strings: listing them imports nothing
METHODS: dict[str, dict[str, str]] = {
    "josrc": {
        "auto": "cleanweb.methods.josrc:AdaptiveJoSRC",
        "paper": "cleanweb.methods.josrc:JoSRC",
        "paper-c": "cleanweb.methods.josrc:CleanOnly",
        "paper-ci": "cleanweb.methods.josrc:CleanAndID",
        "paper-cio": "cleanweb.methods.josrc:WithoutConsistency",
        "snc": "cleanweb.methods.josnc:JoSNC",
    },
    "standard": {"auto": "cleanweb.methods.standard:Standard", "paper": "cleanweb.methods.standard:Undefended"},
    "decoupling": dict.fromkeys(("auto", "paper"), "cleanweb.methods.decoupling:Decoupling"),
    "coteaching": dict.fromkeys(("auto", "paper"), "cleanweb.methods.coteaching:CoTeaching"),
    "coteaching+": dict.fromkeys(("auto", "paper"), "cleanweb.methods.coteaching:CoTeachingPlus"),
    "jocor": dict.fromkeys(("auto", "paper"), "cleanweb.methods.jocor:JoCoR"),
    "dividemix": {"auto": "cleanweb.methods.dividemix:DivideMix"},
    "codim": {
        "auto": "cleanweb.methods.codim:CoDiM",
        "self": "cleanweb.methods.codim:CoDiM",
        "sup": "cleanweb.methods.codim:CoDiMSup",
    },
}
TAKE_NOISE_RATE = ("coteaching", "coteaching+", "jocor")  # must be told it; the others are not asked


@dataclass(frozen=True, slots=True)
class Batch:
    """b samples, on the device."""

    indices: Tensor  # (b,) int64: position among the training samples
    labels: Tensor  # (b,) int64: given labels
    views: tuple[Tensor, ...]  # each (b, …): images (b, 3, h, w) or features (b, d), one per entry of Method.views

    def split(self, parts: int) -> Iterator["Batch"]:
        """The same samples and views in so many parts of about the same size."""
        for at in torch.arange(len(self.indices), device=self.indices.device).tensor_split(parts):
            yield Batch(self.indices[at], self.labels[at], tuple(view[at] for view in self.views))


@dataclass(frozen=True, slots=True)
class Batches:
    """One epoch's batches. Every pass draws anew, in an order and with views that depend on seed and epoch alone.

    draw(indices, generator) makes a batch of these samples, with the method's views drawn at random; without a
    generator with one view, the image as it is.
    """

    draw: Callable[[Tensor, Generator | None], Batch]
    indices: Tensor  # (m,) int64: the samples, ascending, on the CPU
    size: int  # of a batch, about: the last one is not small, since batch norm needs company
    generator: Generator
    parts: int = 1  # that a batch is handed over in, where memory does not suffice for the whole

    def __len__(self) -> int:
        m = len(self.indices)
        return max(1, min(round(m / self.size), m // 2))

    def __iter__(self) -> Iterator[Batch]:
        """Every sample once, shuffled."""
        order = self.indices[torch.randperm(len(self.indices), generator=self.generator)]
        for indices in order.tensor_split(len(self)):
            batch = self.draw(indices, self.generator)
            yield from (batch,) if self.parts == 1 else batch.split(self.parts)

    def plain(self) -> Iterator[Batch]:
        """Every sample once, in order and as it is."""
        for indices in self.indices.tensor_split(len(self)):
            yield self.draw(indices, None)

    def only(self, which: Tensor) -> "Batches":
        """The same of fewer samples: which (n,) bool, over all samples."""
        return replace(self, indices=self.indices[which.cpu()[self.indices]])


@dataclass(frozen=True, slots=True)
class Loss:
    """One step's loss, and what was selected on the way to it."""

    value: Tensor  # scalar
    n_clean: int = 0
    n_id: int = 0
    n_ood: int = 0
    tau: float | None = None  # the clean threshold in force


class Learner(Protocol):
    """What the training loop needs: an nn.Module that gives losses."""

    def epoch(self, t: int, batches: Batches) -> Iterator[Loss]:
        """Epoch t, counted from 1. Most go once over the batches; some look at all samples first, and divide them."""

    # of nn.Module
    def to(self, device: torch.device) -> Self: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> object: ...


class Method(Learner, Protocol):
    """What the scoring needs besides."""

    views: ClassVar[tuple[str, ...]]  # what a batch carries: 'weak', 'strong' or 'distorted', one entry per view

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (n, …) → probabilities (n, c) and features (n, d): evaluation mode, no gradient."""

    def trained(self) -> "AnyNetwork":
        """The network that `predict` believes, or the first of several: what the classifier goes on from."""


class MethodClass(Protocol):
    """How a method is made."""

    views: tuple[str, ...]

    def __call__(
        self, network: "AnyNetwork", n_samples: int, n_classes: int, recipe: "Recipe", epochs: int
    ) -> Method: ...


# watch(stage, epoch, method): called after every epoch, counted from 1; stage as in the manifest's table `epochs`
Watch = Callable[[str, int, Method], None]


def unwatched(stage: str, epoch: int, method: object) -> None:
    """The watcher that looks away."""


def load(method: str, recipe: str) -> MethodClass:
    """The class of a method's recipe."""
    module, name = METHODS[method][recipe].split(":")
    return cast(MethodClass, getattr(import_module(module), name))
