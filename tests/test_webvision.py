"""mini-WebVision as it lies on disk: the right pictures, the right classes, and accuracies that can be counted."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cleanweb import manifest
from cleanweb.bench import webvision
from cleanweb.cli import app
from cleanweb.errors import UsageError
from cleanweb.settings import Settings

SYNSETS = ["n01440764", "n01443537", "n01484850", "n01491361"]
COLOURS = [(220, 30, 30), (30, 200, 30), (40, 40, 220), (200, 200, 40)]


def picture(file: Path, label: int, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(-30, 30, (32, 32, 3))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(COLOURS[label]) + noise).clip(0, 255).astype(np.uint8)).save(file)


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Path]:
    root, imagenet = tmp_path / "webvision", tmp_path / "imagenet"
    (root / "info").mkdir(parents=True)
    train = [(f"google/q{label:04d}/{i:03d}.jpg", label) for label in range(4) for i in range(24)]
    test = [(f"val{label}{i:03d}.jpg", label) for label in range(4) for i in range(5)]
    for number, (path, label) in enumerate(train):
        picture(root / path, label, number)
    for number, (path, label) in enumerate(test):
        picture(root / "val_images_256" / path, label, 1000 + number)
        place = imagenet / (str(label) if label == 0 else SYNSETS[label])
        picture(place / path.replace("jpg", "JPEG"), label, 2000 + number)
    for name, listed in (("train_filelist_google", train), ("val_filelist", test)):
        (root / "info" / f"{name}.txt").write_text("".join(f"{path} {label}\n" for path, label in listed))
    (root / "info" / "synsets.txt").write_text("".join(f"{name} a thing, another\n" for name in SYNSETS))
    return root, imagenet


def test_the_first_classes_are_learned_and_tested(data: tuple[Path, Path], tmp_path: Path):
    asked = ["--classes", "3", "--method", "standard", "--backbone", "cnn5", "--epochs", "4", "--workers", "0"]
    words = ["bench", "webvision", str(data[0]), "--imagenet", str(data[1]), "--out", str(tmp_path / "run"), *asked]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    images = manifest.read(tmp_path / "run", "images")
    assert images["given_label"].value_counts().to_dict() == {"0000": 24, "0001": 24, "0002": 24}
    assert (images["status"] == "ok").all()
    again = webvision.run(*data, 3, Settings(data[0], out=tmp_path / "run", backbone="cnn5", workers=0))
    for of in again["accuracy"].values():
        assert of["images"] == 15
        assert 1 / 3 < of["top-1"] <= of["top-5"] == 1  # of three classes all are among the first five


def test_data_that_lie_otherwise_are_told(data: tuple[Path, Path], tmp_path: Path):
    root, imagenet = data
    asked = Settings(root, out=tmp_path / "run")
    with pytest.raises(UsageError, match="no folder for class 4"):
        webvision.run(root, imagenet, 5, asked)
    (root / "info" / "val_filelist.txt").write_text("val0000.jpg zero\n")
    with pytest.raises(UsageError, match=r"val_filelist\.txt, line 1"):
        webvision.run(root, None, 3, asked)
    with pytest.raises(UsageError, match=r"info\.tar"):
        webvision.run(tmp_path / "elsewhere", None, 3, asked)
    assert not (tmp_path / "run").exists()
