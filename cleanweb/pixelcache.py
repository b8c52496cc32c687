"""The pixels of the crawl, decoded once for all later stages: a centre square of each image, in a few large files.

Takes pictures, gives arrays. A million images at 256 px take 200 GB, at 32 px 3 GB; where that is too much, the squares
for which there is no room are decoded each time they are asked for. The files are read and not mapped: pages that are
mapped count as the process's memory, and reading at random maps most of a large cache before long.
"""

import os
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from io import FileIO
from pathlib import Path

import numpy as np
from PIL import Image

from cleanweb import atomic, scratch
from cleanweb.errors import RunError

Spot = tuple[int, int, int]  # number of the file, side in pixels, offset in bytes
_SPOT = np.dtype([("file", "<i4"), ("side", "<i4"), ("offset", "<i8")])  # side 0: no pixels


class PixelCache:
    """The centre squares of all readable images, decoded once: uint8 RGB.

    `pixels-<worker>.bin` hold the squares one after the other, `index.npy` says where each sample's lies.
    """

    def __init__(self, folder: Path, index: np.ndarray, again: Callable[[int], np.ndarray] | None = None):
        """again(i) gives the square of a sample for which there was no room."""
        self.folder, self.index, self.again = Path(folder), index, again

    @classmethod
    def save(cls, folder: Path, n: int, places: "Places") -> "PixelCache":
        """The cache of n samples whose squares `append` has put at `places`: its index, written whole or not at all."""
        index = scratch.zeros(n, _SPOT)
        known = places.index[:n]
        index[: len(known)] = known
        with atomic.writing(folder / "index.npy") as draft, draft.open("xb") as file:
            np.save(file, index)
        return cls(folder, index)

    def only(self, indices: np.ndarray) -> "PixelCache":
        """The cache of these samples alone (m,), numbered from 0."""
        again = None if self.again is None else partial(_again_among, self.again, indices)
        return PixelCache(self.folder, scratch.copied(self.index[indices]), again)

    def load(self, indices: Sequence[int] | np.ndarray, size: int) -> np.ndarray:
        """(b, size, size, 3) uint8: the squares of these samples, resized where they are stored in another size. Raises
        KeyError where one has none."""
        batch = np.empty((len(indices), size, size, 3), np.uint8)
        with _Files(self.folder) as files:
            for k, i in enumerate(indices):
                file, side, offset = self.index[i].item()
                if side == size:
                    files.read(file, offset, batch[k])
                else:
                    batch[k] = resized(self._square(int(i), files), size)
        return batch

    def _square(self, i: int, files: "_Files") -> np.ndarray:
        file, side, offset = self.index[i].item()
        if side:
            return files.read(file, offset, np.empty((side, side, 3), np.uint8))
        if self.again is None:
            raise KeyError(f"sample {i} has no pixels")
        return self.again(i)


class _Files(ExitStack):
    """The files of a cache, open while squares are read."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder, self.streams = folder, dict[int, FileIO]()

    def read(self, file: int, offset: int, square: np.ndarray) -> np.ndarray:
        """Fill the square (s, s, 3) with what lies there. Raises MachineError where the file is gone, RunError where it
        is too short."""
        with atomic.told(pixel_file(self.folder, file), "read"):
            if file not in self.streams:
                self.streams[file] = self.enter_context(pixel_file(self.folder, file).open("rb", buffering=0))
            self.streams[file].seek(offset)
            n_read = self.streams[file].readinto(square.data.cast("B"))
        if n_read != square.nbytes:
            raise RunError(f"{pixel_file(self.folder, file)} is shorter than it was. Start again with --fresh.")
        return square


def _again_among(again: Callable[[int], np.ndarray], which: np.ndarray, i: int) -> np.ndarray:
    return again(int(which[i]))


class Places(MutableMapping[int, Spot]):
    """Where the squares of samples lie, by number, as the index keeps it."""

    def __init__(self) -> None:
        self.index = np.zeros(1024, _SPOT)

    def __setitem__(self, i: int, spot: Spot) -> None:
        if i >= len(self.index):
            larger = scratch.zeros(max(i + 1, len(self.index) + len(self.index) // 4), _SPOT)
            larger[: len(self.index)] = self.index
            self.index = larger
        self.index[i] = tuple(spot)

    def __getitem__(self, i: int) -> Spot:
        if not (0 <= i < len(self.index) and self.index["side"][i]):
            raise KeyError(i)
        return self.index[i].item()

    def __delitem__(self, i: int) -> None:
        self.index[i] = 0

    def __iter__(self) -> Iterator[int]:
        return iter(np.flatnonzero(self.index["side"]).tolist())

    def __len__(self) -> int:
        return int(np.count_nonzero(self.index["side"]))


def pixel_file(folder: Path, number: int) -> Path:
    return folder / f"pixels-{number:03d}.bin"


def sizes(folder: Path) -> dict[int, int]:
    """The number of each file of squares in the folder, and its size in bytes."""
    return {int(file.stem.removeprefix("pixels-")): file.stat().st_size for file in folder.glob("pixels-*.bin")}


def clear(folder: Path) -> None:
    """Make the folder, and remove what an older cache has left there."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("pixels-*.bin"), *folder.glob("index.npy")):
        old.unlink()


class Filling:
    """File `number` of squares while one process, and no other, fills it; it is there from the first square on."""

    def __init__(self, folder: Path, number: int):
        self.folder, self.number = folder, number

    def append(self, square: np.ndarray) -> Spot:
        """Keep one more square (s, s, 3). Raises OSError."""
        offset = self._stream.seek(0, os.SEEK_END)
        left = np.ascontiguousarray(square).data.cast("B")
        while left:
            left = left[self._stream.write(left) :]
        return self.number, len(square), offset

    @cached_property
    def _stream(self) -> FileIO:  # kept open: to open it for every square costs a fiftieth of decoding a photo
        return pixel_file(self.folder, self.number).open("ab", buffering=0)

    def __del__(self) -> None:
        if "_stream" in self.__dict__:
            self._stream.close()


def resized(square: np.ndarray, side_px: int) -> np.ndarray:
    """(s, s, 3) uint8 in another size."""
    return np.asarray(Image.fromarray(square).resize((side_px, side_px), Image.Resampling.LANCZOS))


def centre_square(picture: Image.Image, size_px: int) -> np.ndarray:
    """(s, s, 3) uint8, s = min(size_px, shorter side): the middle of the picture."""
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    box = (left, top, left + short, top + short)
    side = min(size_px, short)
    if side == short:
        return np.asarray(picture.crop(box))
    return np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0))
