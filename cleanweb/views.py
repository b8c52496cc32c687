"""The augmented views of a batch, each image with its own random draw, made on the device.

Images travel as uint8 (b, side, side, 3) from the pixel cache, a margin larger than the network's input; they leave as
normalised float32 (b, 3, size, size) in channels-last memory.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cleanweb.methods import Batch, Batches

_LUMA = 0.299, 0.587, 0.114
_SMALL_PX = 64  # up to here images are padded for cropping, as CIFAR's are; above, they are loaded larger


def loaded_side(size_px: int) -> int:
    """The side to load images at for random crops of that size: 256 for 224. What is not cropped is loaded as it is."""
    return size_px if size_px <= _SMALL_PX else round(size_px * 8 / 7)


def weak(images: Tensor, size_px: int, generator: torch.Generator) -> Tensor:
    """Random crop and horizontal flip, one draw per image: uint8 (b, size, size, 3). Small images are padded by an
    eighth with black first, as for CIFAR."""
    if images.shape[1] == size_px:
        pad = size_px // 8
        images = F.pad(images, (0, 0, pad, pad, pad, pad))
    b, side = images.shape[:2]
    spare = side - size_px + 1
    top, left = (torch.randint(0, spare, (b, 1), generator=generator) for _ in range(2))
    flip = torch.rand(b, 1, generator=generator) < 0.5
    steps = torch.arange(size_px)
    rows = (top + steps).to(images.device)
    columns = (left + torch.where(flip, steps.flip(0), steps)).to(images.device)
    batch = torch.arange(b, device=images.device)
    return images[batch[:, None, None], rows[:, :, None], columns[:, None, :]]


def strong(images: Tensor, size_px: int, generator: torch.Generator) -> Tensor:
    """Turned by up to 15°, scaled by up to a quarter, moved by up to an eighth, flipped, brighter or darker and of more
    or less contrast by up to a quarter, one draw per image: uint8 (b, size, size, 3). For networks that start from
    scratch on few images."""
    b = len(images)

    def draw(spread: float) -> Tensor:
        return (torch.rand(b, generator=generator) * 2 - 1) * spread

    turn, scale, x, y = draw(0.26), draw(0.22).exp(), draw(0.25), draw(0.25)
    flip = torch.where(torch.rand(b, generator=generator) < 0.5, -1.0, 1.0)
    rows = (turn.cos() * scale * flip, -turn.sin() * scale, x), (turn.sin() * scale * flip, turn.cos() * scale, y)
    matrix = torch.stack([torch.stack(row, 1) for row in rows], 1).to(images.device)
    pixels = images.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(matrix, [b, 3, size_px, size_px], align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    brightness, contrast = ((1 + draw(0.25)).view(b, 1, 1, 1).to(images.device) for _ in range(2))
    pixels = pixels * brightness
    pixels = pixels.mean((1, 2, 3), keepdim=True).lerp(pixels, contrast)
    return pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def distorted(images: Tensor, size_px: int, generator: torch.Generator) -> Tensor:
    """A crop of a fifth of the area to all of it, flipped, of other brightness, contrast and saturation, at times grey,
    one draw per image: uint8 (b, size, size, 3). What contrastive learning needs: two small moves of a picture are told
    from other pictures by their colours alone (SimCLR, https://arxiv.org/abs/2002.05709, appendix A; no hue, no blur).
    """
    b, device = len(images), images.device

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(b, generator=generator).to(device)

    area, aspect = draw(0.2, 1.0), draw(math.log(3 / 4), math.log(4 / 3)).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x, y = draw(-1, 1) * (1 - width), draw(-1, 1) * (1 - height)
    flip, nothing = torch.where(draw(0, 1) < 0.5, -1.0, 1.0), torch.zeros(b, device=device)
    matrix = torch.stack([width * flip, nothing, x, nothing, height, y], 1).view(b, 2, 3)
    grid = F.affine_grid(matrix, [b, 3, size_px, size_px], align_corners=False)
    pixels = F.grid_sample(images.permute(0, 3, 1, 2).float(), grid, padding_mode="reflection", align_corners=False)

    jitter = torch.where(draw(0, 1) < 0.8, 1.0, 0.0)
    brightness, contrast, saturation = (1 + jitter * draw(-0.4, 0.4) for _ in range(3))
    pixels = pixels * brightness.view(b, 1, 1, 1)
    pixels = pixels.mean((1, 2, 3), keepdim=True).lerp(pixels, contrast.view(b, 1, 1, 1))
    grey = (pixels * torch.tensor(_LUMA, device=device).view(3, 1, 1)).sum(1, keepdim=True)
    saturation = torch.where(draw(0, 1) < 0.2, 0.0, saturation)
    pixels = grey.lerp(pixels, saturation.view(b, 1, 1, 1))
    return pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


VIEWS = {"weak": weak, "strong": strong, "distorted": distorted}


@dataclass(frozen=True, slots=True)
class Pixels:
    """How a network wants its images: side in px, and the mean and standard deviation of its training data."""

    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (b, h, w, 3) → float32 (b, 3, h, w), channels last: ((x / 255) − mean) / std."""
        mean, std = (torch.tensor(v, device=images.device) for v in (self.mean, self.std))
        return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)


class ImageBatches:
    """Batches of augmented views of n training images; call it with the epoch.

    load(positions, side_px) gives uint8 (b, side, side, 3), as the pixel cache does.
    """

    def __init__(
        self,
        load: Callable[[np.ndarray, int], np.ndarray],
        labels: np.ndarray,
        pixels: Pixels,
        views: tuple[str, ...],
        batch_size: int,
        seed: int,
        device: torch.device,
    ):
        self.load, self.pixels, self.views = load, pixels, [VIEWS[v] for v in views]
        self.labels = torch.as_tensor(labels)
        self.batch_size, self.seed, self.device = batch_size, seed, device

    def __call__(self, epoch: int) -> Batches:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return Batches(self._draw, torch.arange(len(self.labels)), self.batch_size, generator)

    def _draw(self, indices: Tensor, generator: torch.Generator | None) -> Batch:
        size = self.pixels.size_px
        side = size if generator is None else loaded_side(size)
        images = torch.from_numpy(self.load(indices.numpy(), side)).to(self.device, non_blocking=True)
        drawn = [images] if generator is None else [view(images, size, generator) for view in self.views]
        views = tuple(self.pixels.normalise(view) for view in drawn)
        return Batch(indices.to(self.device), self.labels[indices].to(self.device), views)
