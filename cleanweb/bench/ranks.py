"""How much more do two ranks do in the same time? One rank of one thread on n pictures, two of them on 2n (weak
scaling): whole runs of `torchrun -m cleanweb fit`, starting Python included, in turns. 2 would be all that can be.

What limits it: ranks share inspecting, features and the networks of cross-fitting; rank 0 alone looks for copies,
scores, decides, trains the classifier, writes and reports, and of twice as many pictures that takes twice as long.

- `--tune head`: features of a frozen network are nearly all of the work.
- `--tune full`: networks are handed out whole. Here are six (three folds in two rounds), three for each of two ranks,
  and then the classifier, which one rank trains while the other waits; with an odd number of networks one waits longer.
"""

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cleanweb.backbone import Backbone
from cleanweb.bench.record import Result
from cleanweb.bench.speed import paired
from cleanweb.classifier import save_classifier
from cleanweb.errors import MachineError

LABELS = ("red", "green", "blue", "grey")
_COLOURS = ((200, 60, 60), (60, 180, 60), (60, 60, 200), (128, 128, 128))
HEAD_PICTURES, FULL_PICTURES, FULL_EPOCHS = 2000, 1500, 6  # for one rank: about a minute of a processor a run
_STAGES = {"inspect", "features", "train", "classifier"}  # of which fit tells; what follows one belongs to it


def scaling(
    rounds: int,
    scratch: Path,
    backbone: str = "mobilenetv2_100",
    of_head: int = HEAD_PICTURES,
    of_full: int = FULL_PICTURES,
    epochs: int = FULL_EPOCHS,
) -> Result:
    """Both ways to train: images/s of one rank and of two, and the ratio. Of the last run of either `stages`: seconds
    from the first word of a stage to that of the next (`classifier` is all that comes then, on one rank alone); and
    `busy`: how many processors were kept at work. Some minutes."""
    network = _network(backbone, scratch / "network")
    head = ["--tune", "head", "--backbone", f"local-dir:{network}", "--image-size", "224"]
    full = ["--tune", "full", "--backbone", "cnn5", "--image-size", "32", "--epochs", str(epochs), "--set", "rounds=2"]
    return {
        "head": _scaling(rounds, of_head, 256, head, scratch / "head"),
        "full": _scaling(rounds, of_full, 40, full, scratch / "full"),
    }


def _scaling(rounds: int, n: int, side: int, words: list[str], scratch: Path) -> Result:
    crawls = {ranks: drawn(scratch / str(ranks), ranks * n, side) for ranks in (1, 2)}
    told: dict[int, Result] = {}

    def fit(ranks: int) -> float:
        with tempfile.TemporaryDirectory(dir=scratch) as out:
            told[ranks] = _fit(crawls[ranks], ranks, [*words, "--out", out])
        return ranks * n / told[ranks]["seconds"]

    found = paired(rounds, False, one=partial(fit, 1), two=partial(fit, 2))
    for ranks, name in ((1, "one"), (2, "two")):
        found[name] |= {"images": ranks * n, **told[ranks]}
    return found


def _fit(crawl: Path, ranks: int, words: list[str]) -> Result:
    """A whole run: its seconds, by its stages too, and how many processors it kept busy. Raises MachineError where it
    ends badly."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m",
               "cleanweb", "fit", str(crawl), "--device", "cpu", "--workers", "0", "--fresh", *words]  # fmt: skip
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    started, spent = time.perf_counter(), _spent_by_children()
    stages, said, stage = dict[str, float](), [], "start"
    with subprocess.Popen(command, env=one_thread, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None, "it is a pipe"
        for line in run.stderr:  # inspect: 1 of 1,200
            said.append(line)
            name = line.partition(": ")[0]
            if name in _STAGES - {stage, *stages}:
                stages[stage] = time.perf_counter() - started - sum(stages.values())
                stage = name
    seconds = time.perf_counter() - started
    if run.returncode:
        raise MachineError(f"torchrun ended with {run.returncode}: {''.join(said)[-2000:]}")
    stages[stage] = seconds - sum(stages.values())
    return {"seconds": seconds, "busy": (_spent_by_children() - spent) / seconds, "stages": stages}


def _spent_by_children() -> float:
    """Seconds of processors that those that have ended have had."""
    return sum(os.times()[2:4])


def drawn(folder: Path, n: int, side: int) -> Path:
    """A crawl of n pictures in four classes, every tenth under a wrong label."""
    for label in LABELS:
        (folder / label).mkdir(parents=True)
    for k in range(n):
        rng, shown = np.random.default_rng(k), k % len(LABELS)
        coarse = rng.normal(_COLOURS[shown], 60, (9, 9, 3)).clip(0, 255).astype(np.uint8)
        picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        given = LABELS[(shown + (k % 10 == 0)) % len(LABELS)]
        picture.save(folder / given / f"{k:06d}.jpg", quality=90)
    return folder


def _network(name: str, folder: Path) -> Path:
    """Of random weights: what it sees is not the question here."""
    torch.manual_seed(0)
    model: Any = Backbone(name, False).build(2)
    save_classifier(model, folder, ["a", "b"], 224)
    return folder
