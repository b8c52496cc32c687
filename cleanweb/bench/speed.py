"""How fast is it? Every figure is a ratio to a bare loop that does the same work, run in turns with it.

Machines are noisy, and other machines are other machines: so each round runs the bare loop and ours right after each
other, in an order that changes, and what is told is the median over the rounds. The bare loops are what one would write
first: PyTorch as it comes (eager, float32, contiguous), Pillow as it comes (one thread, full decoding).
"""

import copy
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from cleanweb import features, images, imageworkers, machine, malloc, manifest, methods, pixelcache, readers
from cleanweb.bench.record import Result, commit, hardware, versions
from cleanweb.methods import Batch, Batches
from cleanweb.network import AnyNetwork, Network, TimmModel
from cleanweb.pixelcache import PixelCache
from cleanweb.records import Status, silent
from cleanweb.schema import TABLES
from cleanweb.settings import RECIPES, Recipe
from cleanweb.train import train
from cleanweb.views import ImageBatches, Pixels, loaded_side
from cleanweb.writers.parquet import store

CLASSES, BATCH = 10, 128
_DECODED = 6000  # files at least: to start processes takes as long as to decode some hundred
_CIFAR = Pixels(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
_IMAGENET = Pixels(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Run = Callable[[], float]  # does it once; items a second
Part = Callable[[], Result]


def paired(rounds: int, warm: bool = True, /, **runs: Run) -> Result:
    """Run them in turns: of each the median rate, and the median of its ratio to the first of the same round; by the
    clock, and by the processor's time, in which other programs count for less. warm: each is run once before."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    by_cpu: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values() if warm else ():
        run()  # nobody's first time counts
    for k in range(rounds):
        for name in list(runs)[:: 1 if k % 2 else -1]:
            started, spent = time.perf_counter(), _cpu_seconds()
            rates[name].append(runs[name]())
            busy = (_cpu_seconds() - spent) / (time.perf_counter() - started)
            by_cpu[name].append(rates[name][-1] / max(busy, 1e-3))
    first = next(iter(runs))
    return {
        name: {
            "per_second": median(rates[name]),
            "ratio": _median_ratio(rates[name], rates[first]),
            "ratio_by_cpu": _median_ratio(by_cpu[name], by_cpu[first]),
        }
        for name in runs
    } | {"rounds": rounds}


def _median_ratio(rates: list[float], bare: list[float]) -> float:
    return median(a / b for a, b in zip(rates, bare, strict=True))


def _cpu_seconds() -> float:
    """What this process, its threads and its children that have ended have had of all processors."""
    return sum(os.times()[:4])


def _timed(n: int, work: Callable[[], object], device: torch.device | None = None) -> float:
    started = time.perf_counter()
    work()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return n / (time.perf_counter() - started)


# --- training -------------------------------------------------------------------------------------------------------


class _Plain(nn.Module):
    """A timm model as one would call it: eager, in float32, contiguous."""

    def __init__(self, model: TimmModel):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model.forward_head(self.model.forward_features(x), pre_logits=True)
        return self.model.get_classifier()(found), found


def training_step(device: torch.device, rounds: int, n: int, scratch: Path, backbone: str = "cnn7") -> Result:
    """Jo-SRC's step after warm-up (two views, student forward and backward, teacher forward): the bare loop on one
    batch that is there already; ours from the pixels on disk, as `fit` trains; and ours on one batch. Images/s."""
    torch.manual_seed(0)
    pixels = _CIFAR if backbone == "cnn7" else _IMAGENET
    side = loaded_side(pixels.size_px)
    cache, labels = _noise(scratch / "train", n, side), np.arange(n) % CLASSES
    recipe = replace(RECIPES["paper"]["small"], warmup=1e-9, batch_size=BATCH)
    batches = ImageBatches(cache.load, labels, pixels, ("weak", "weak"), BATCH, 0, device)
    batch = next(iter(batches(1)))
    contiguous = replace(batch, views=tuple(view.contiguous() for view in batch.views))

    def learner(network: AnyNetwork | _Plain) -> methods.Method:
        made: Any = network.to(device)
        return methods.load("josrc", "paper")(made, n, CLASSES, recipe, 100).to(device)

    def model() -> Any:
        return timm.create_model(backbone, num_classes=CLASSES)

    plain = learner(_Plain(model()))
    ours, fed = (learner(Network(model()).to(memory_format=torch.channels_last)) for _ in range(2))
    epoch = partial(_epoch, recipe=recipe, n=n, device=device)
    return paired(
        rounds,
        bare=lambda: _as_it_comes(lambda: epoch(plain, _always(contiguous, n))),
        ours=lambda: epoch(ours, batches(2)),
        one_batch=lambda: epoch(fed, _always(batch, n)),
    )


def _always(batch: Batch, n: int) -> Batches:
    """An epoch of one and the same batch."""
    return Batches(lambda indices, _: batch, torch.arange(n), BATCH, torch.Generator().manual_seed(0))


def _epoch(learner: methods.Method, batches: Batches, recipe: Recipe, n: int, device: torch.device) -> float:
    """An epoch, as the training loop runs it: images a second."""
    return _timed(n, lambda: train(learner, lambda t: batches, recipe, 1), device)


def _as_it_comes(run: Run) -> float:
    """With large blocks of memory that go back to the system when they are freed."""
    malloc.return_freed()
    try:
        return run()
    finally:
        malloc.keep_freed()


def _noise(folder: Path, n: int, side: int) -> PixelCache:
    """A cache of n pictures of noise: what they show is not the question here."""
    pixelcache.clear(folder)
    rng, places, filling = np.random.default_rng(0), pixelcache.Places(), pixelcache.Filling(folder, 0)
    for i in range(n):
        places[i] = filling.append(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    return PixelCache.save(folder, n, places)


# --- frozen features ------------------------------------------------------------------------------------------------


def frozen_features(device: torch.device, rounds: int, files: list[Path], scratch: Path, name: str) -> Result:
    """Files to features of two views, `--tune head`'s way: the bare loop decodes, resizes and runs the network batch by
    batch; ours inspects into the cache and extracts. Images/s. And of pixels that are there, forward passes alone."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0).eval().to(device)
    fast, n, side = copy.deepcopy(model), len(files), _IMAGENET.size_px
    cache = _inspected(files, scratch / "kept", machine.cores(), side)

    def bare() -> float:
        def work() -> None:
            for some in _batches(files, 32):
                x = torch.from_numpy(np.stack([_decoded(file, side) for file in some])).to(device)
                _forward(model, x)

        return _timed(n, work, device)

    def bare_forward() -> float:
        def work() -> None:
            for some in np.array_split(np.arange(n), -(-n // 32)):
                _forward(model, torch.from_numpy(cache.load(some, side)).to(device))

        return _timed(n, work, device)

    def extracted(load: PixelCache) -> None:
        with tempfile.TemporaryDirectory(dir=scratch) as there:
            features.extract(fast, load.load, n, _IMAGENET, Path(there) / "features.npy", device)

    def whole() -> float:
        with tempfile.TemporaryDirectory(dir=scratch) as there:
            return _timed(n, lambda: extracted(_inspected(files, Path(there), machine.cores(), side)), device)

    return {
        "with_decoding": paired(rounds, bare=lambda: _as_it_comes(bare), ours=whole),
        "pixels_there": paired(rounds, bare=lambda: _as_it_comes(bare_forward),
                               ours=lambda: _timed(n, lambda: extracted(cache), device)),
    }  # fmt: skip


@torch.inference_mode()
def _forward(model: nn.Module, x: Tensor) -> None:
    """The picture and its mirror image, one after the other, in float32."""
    mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (_IMAGENET.mean, _IMAGENET.std))
    for view in (x, x.flip(2)):
        model((view.permute(0, 3, 1, 2).contiguous().float() / 255 - mean) / std).cpu()


def _batches(files: list[Path], size: int) -> Iterator[list[Path]]:
    for k in range(0, len(files), size):
        yield files[k : k + size]


# --- decoding -------------------------------------------------------------------------------------------------------


def decoding(rounds: int, files: list[Path], scratch: Path, workers: int, side: int = 256) -> Result:
    """Inspecting all files into the cache, processes started and all, against one thread that only decodes and resizes
    them, with and without JPEG's reduced scales (`draft`). Files/s; of_cores: the ratio, divided by the number of
    cores."""
    files = files * -(-_DECODED // len(files))
    n = len(files)

    def bare(draft: bool) -> float:
        return _timed(n, lambda: [_decoded(file, side, draft) for file in files])

    def ours() -> float:
        with tempfile.TemporaryDirectory(dir=scratch) as there:
            return _timed(n, lambda: _inspected(files, Path(there), workers, side))

    found = paired(rounds, bare=lambda: bare(False), bare_draft=lambda: bare(True), ours=ours)
    return found | {"of_cores": found["ours"]["ratio"] / machine.cores()}


def _decoded(file: Path, side: int, draft: bool = False) -> np.ndarray:
    """Pillow's first answer to a question for a small square."""
    with Image.open(file) as opened:
        if draft:
            opened.draft("RGB", (side, side))
        picture = opened.convert("RGB")
    short = min(picture.size)
    left, top = (picture.width - short) // 2, (picture.height - short) // 2
    box = (left, top, left + short, top + short)
    return np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS, box=box))


def _inspected(files: list[Path], folder: Path, workers: int, side: int) -> PixelCache:
    found, cache = imageworkers.inspect(enumerate(files), len(files), folder, side, workers, silent)
    assert cache is not None, "there is a folder for it"
    assert all(facts.status == Status.OK for facts in found.values()), "every file is a picture"
    return cache


def pictures(source: Path | None, n: int, folder: Path) -> list[Path]:
    """n JPEGs to decode: the photos in `source`, again and again, or pictures drawn of waves, 640 × 480."""
    if source is not None:
        found = [Path(sample.file) for sample in readers.read(source).samples if sample.row is None]
        usable = [file for file in found if images.inspect_one(file)[0].status == Status.OK]
        return (usable * (1 + n // max(len(usable), 1)))[:n]
    folder.mkdir(parents=True, exist_ok=True)
    return [_drawn(folder / f"{k:05d}.jpg", k) for k in range(n)]


def _drawn(file: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:480, 0:640] / 640
    waves = [np.sin(rng.uniform(5, 90) * (x * np.cos(a) + y * np.sin(a)) + a) for a in rng.uniform(0, 6.3, 9)]
    grey = np.stack([sum(waves[c::3]) for c in range(3)], 2) * 35 + 128 + rng.normal(0, 6, (480, 640, 3))
    encoded = BytesIO()
    Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=88)
    file.write_bytes(encoded.getvalue())
    return file


# --- starting, writing, asking --------------------------------------------------------------------------------------


def starting(rounds: int) -> Result:
    """`cleanweb --help` and the bare interpreter: starts a second."""

    def start(*words: str) -> float:
        return _timed(1, lambda: subprocess.run([sys.executable, *words], check=True, capture_output=True))

    return paired(rounds, bare=lambda: start("-c", "pass"), help=lambda: start("-m", "cleanweb", "--help"))


def manifests(rounds: int, n: int, scratch: Path) -> Result:
    """Writing a manifest of n images, rows/s, against DuckDB's bare Parquet of the same frame; and a `cleanweb sql` on
    it, start included: queries a second, against the bare interpreter."""
    tables = {name: manifest.empty(name) for name in TABLES} | {"images": rows(n)}
    run, bare = scratch / "run", scratch / "bare.parquet"
    written = paired(
        rounds,
        bare=lambda: _timed(n, lambda: store(tables["images"], "*", bare)),
        ours=lambda: _timed(n, lambda: manifest.write(run, tables)),
    )
    query = "SELECT verdict, count(*) FROM images GROUP BY 1"
    words = [sys.executable, "-m", "cleanweb", "sql", query, "--run", str(run), "--format", "csv"]
    asked = paired(
        rounds,
        bare=lambda: _timed(1, lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)),
        sql=lambda: _timed(1, lambda: subprocess.run(words, check=True, capture_output=True)),
    )
    return {"write": written, "sql": asked, "rows": n}


def rows(n: int) -> Any:
    """The table images of a crawl of n, as `fit` makes it."""
    import pandas as pd

    rng, names = np.random.default_rng(0), np.array([f"class {k:02d}" for k in range(20)], dtype=object)
    labels, clean = names[rng.integers(0, 20, n)], rng.random(n) < 0.8
    p = rng.dirichlet((8, 1, 1), n).astype(np.float32)
    ids = pd.Series([f"class/{i:08d}.jpg" for i in range(n)], dtype=object)
    other = names[rng.integers(0, 20, n)]
    clean |= other == labels
    numbers = ("js_clean", "view_disagreement", "p_given", "p_predicted", "neighbour_agreement",
               "neighbour_similarity", "confidence")  # fmt: skip
    columns: dict[str, Any] = {name: None for name, _, _ in TABLES["images"]}
    columns |= {"sample_id": ids, "path": ids, "status": "ok", "format": "JPEG", "width": 640, "height": 480}
    columns |= {"bytes": rng.integers(10_000, 99_999, n), "sha256": [f"{i:064x}" for i in range(n)]}
    columns |= {"phash": [f"{i:016x}" for i in range(n)], "given_label": labels, "predicted_label": labels}
    columns |= {
        "verdict": np.where(clean, "clean", "relabeled"),
        "suggested_label": [None if right else name for right, name in zip(clean, other, strict=True)],
    }
    columns |= {"final_label": np.where(clean, labels, other), "p_clean": p[:, 0], "p_id": p[:, 1], "p_ood": p[:, 2]}
    columns |= {name: rng.random(n, np.float32) for name in numbers}
    columns |= {"needs_review": p[:, 0] < 0.5, "reason": "the label fits", "file": "/crawl/images.jpg"}
    return pd.DataFrame({name: pd.Series(value, ids.index, dtype=object if value is None else None)
                         for name, value in columns.items()})  # fmt: skip


# --- all of it ------------------------------------------------------------------------------------------------------


def parts(device: torch.device, rounds: int, photos: Path | None, n_rows: int, scratch: Path) -> dict[str, Part]:
    """All figures of a machine, to be measured one by one; with a GPU those that need one, too. Some minutes."""
    cores, cuda = machine.cores(), device.type == "cuda"

    def files() -> list[Path]:
        return pictures(photos, 512 if cuda else 128, scratch / "pictures")

    found: dict[str, Part] = {
        "start": lambda: starting(rounds),
        "decode": lambda: decoding(rounds, files(), scratch, cores),
        "train cnn7": lambda: training_step(device, rounds, 50 * BATCH if cuda else 4 * BATCH, scratch),
        "features mobilenetv2_100": lambda: frozen_features(device, rounds, files(), scratch, "mobilenetv2_100"),
        "manifest": lambda: manifests(min(rounds, 3), n_rows, scratch),
    }
    if cuda:
        found["train resnet50"] = lambda: training_step(device, rounds, 8 * BATCH, scratch, "resnet50")
    return found


def measure(chosen: Mapping[str, Part], device: torch.device, said: Callable[[str], None]) -> Result:
    """These figures, and what they were measured on."""
    malloc.keep_freed()
    found = {}
    for name, part in chosen.items():
        said(name)
        found[name] = part()
    return {"figures": found, "threads": torch.get_num_threads(), "bfloat16": machine.prefers_bf16(device),
            "versions": versions(), "commit": commit(), "hardware": hardware(str(device))}  # fmt: skip
