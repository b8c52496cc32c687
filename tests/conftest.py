"""A tiny crawl and a finished run on it, shared by the tests that only look at a run."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does; it is read when torch is loaded

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

settings.register_profile("repeatable", derandomize=True)  # the same examples every time: red means something changed
settings.load_profile("repeatable")

COLOURS = {"red": (200, 40, 40), "green": (40, 190, 60), "blue": (50, 60, 210)}
PER_CLASS = 16


def draw_crawl(folder: Path) -> None:
    """Three folders of noisy coloured squares, a broken file, a copy, and one picture under two labels."""
    rng = np.random.default_rng(0)
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        for i in range(PER_CLASS):
            pixels = np.clip(rng.normal(colour, 40, (24, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i:02d}.png")
    (folder / "red" / "broken.jpg").write_text("<!doctype html><html></html>")
    (folder / "red" / "copy of 00.png").write_bytes((folder / "red" / "00.png").read_bytes())
    (folder / "blue" / "stray.png").write_bytes((folder / "green" / "03.png").read_bytes())


@pytest.fixture(scope="session")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crawls") / "colours"
    draw_crawl(folder)
    return folder


@pytest.fixture(scope="session")
def run(crawl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import cleanweb

    out = tmp_path_factory.mktemp("runs") / "run"
    cleanweb.fit(crawl, out=out, backbone="cnn5", epochs=3, workers=0, device="cpu")
    return out


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 1 MB."""
    yield from mounted(tmp_path / "disk", 1)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 64 MB."""
    yield from mounted(tmp_path / "disk", 64)


def mounted(place: Path, size_mb: int) -> Iterator[Path]:
    place.mkdir()
    may = sys.platform == "linux" and os.geteuid() == 0
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(place)], check=False,
                          capture_output=True) if may else None  # fmt: skip
    if done is None or done.returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
