"""torchrun: several processes that share a run folder give what one gives, and go on when one of them dies."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cleanweb import distributed, inspection, journal, malloc
from cleanweb.errors import RunError
from cleanweb.features import extract
from cleanweb.records import Sample, silent
from cleanweb.views import Pixels
from tests.test_imageworkers import crawl as draw_pictures

REPOSITORY = Path(__file__).parent.parent
SAMPLE = REPOSITORY / "sample_data"
posix = pytest.mark.skipif(os.name != "posix", reason="torchrun's signals")
FIT = ["-m", "cleanweb", "fit", str(SAMPLE / "crawl"), "--labels", str(SAMPLE / "labels.csv"), "--backbone", "cnn5",
       "--epochs", "2", "--image-size", "16", "--workers", "1", "--device", "cpu", "-q"]  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def torchrun(*words: str, nodes: int = 1, each: int = 2, port: int = 0, restarts: int = 0) -> subprocess.Popen[str]:
    launch = ["-m", "torch.distributed.run", "--nnodes", str(nodes), "--nproc-per-node", str(each), "--rdzv-backend",
              "c10d", "--rdzv-endpoint", f"localhost:{port}", "--max-restarts", str(restarts)]  # fmt: skip
    return subprocess.Popen([sys.executable, *launch, *words], env=environment(), cwd=REPOSITORY, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


def finished(run: subprocess.Popen[str]) -> None:
    said, _ = run.communicate(timeout=600)
    assert run.returncode == 0, said


def fitted_alone(out: Path) -> pd.DataFrame:
    subprocess.run([sys.executable, *FIT, "--out", str(out)], env=environment(), cwd=REPOSITORY, check=True)
    return pd.read_csv(out / "manifest.csv")


def test_alone_everything_is_ones_own():
    seen: list[int] = []
    assert (distributed.size(), distributed.rank()) == (1, 0)
    assert distributed.device(torch.device("cpu")) == torch.device("cpu")
    with distributed.world() as tells:
        assert tells
        distributed.share(seen.extend, seen.extend, [3, 1, 2])
    assert seen == [3, 1, 2]


def extracted(file: Path) -> np.ndarray:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, 5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(0.01, 1, parameter.numel()).view_as(parameter))
    return extract(model, pictures, 10, Pixels(4, (0.5,) * 3, (0.25,) * 3), file, torch.device("cpu"), 4)


def share_and_extract(folder: Path) -> None:
    """What the test below runs at every rank."""
    malloc.keep_freed = (folder / f"keeps-{distributed.rank()}").touch  # type: ignore[assignment]
    with distributed.world() as tells:
        if not tells:
            return
        distributed.share(Noting(folder), Noting(folder), [5, 6, 7])
        with pytest.raises(RunError, match="item 6"):
            distributed.share(Noting(folder), Refusing(folder), [5, 6, 7])
        extracted(folder / "features.npy")


class Noting:
    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, items) -> None:
        for item in items:
            (self.folder / f"{item}-{distributed.rank()}").touch()


class Refusing(Noting):
    def __call__(self, items) -> None:
        raise RunError(f"item {items[0]}")


def pictures(positions: np.ndarray, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (10, side, side, 3)).astype(np.uint8)[positions]


def at_every_rank(function: Callable[[Path], None], folder: Path, restarts: int = 0) -> None:
    """Two ranks call a function of this file."""
    script = folder.with_suffix(".py")
    script.write_text(
        "if __name__ == '__main__':\n"  # not in processes that decode
        f"    import sys; from pathlib import Path; from tests.test_distributed import {function.__name__}\n"
        f"    {function.__name__}(Path(sys.argv[1]))\n",
        encoding="utf-8",
    )
    folder.mkdir()
    finished(torchrun(str(script), str(folder), restarts=restarts))


@posix
def test_ranks_share_items_errors_and_features(tmp_path: Path):
    folder = tmp_path / "several"
    at_every_rank(share_and_extract, folder)
    assert {path.name for path in folder.glob("?-?")} == {"5-0", "6-1", "7-0"}
    assert {path.name for path in folder.glob("keeps-?")} == {"keeps-1"}  # where a fit is told, fit itself sees to it
    np.testing.assert_array_equal(np.load(folder / "features.npy"), extracted(tmp_path / "alone.npy"))


def inspect_and_be_killed(folder: Path) -> None:
    """What the test below runs at every rank; rank 1 is killed once, when it has noted 12 files."""
    note, seen, samples = journal.Journal.add, [], drawn(folder.parent / "crawl")
    journal.SHARD_FILES = 4

    def add(book: journal.Journal, *found: Any) -> None:
        note(book, *found)
        if distributed.rank() == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and len(book.facts) == 12:
            os.kill(os.getpid(), signal.SIGKILL)

    journal.Journal.add = add  # type: ignore[method-assign]
    with distributed.world() as tells:
        if tells:
            facts, cache = inspection.inspect(samples, folder / "pixels", 24, 1, lambda *told: seen.append(told))
            (folder / "found.pkl").write_bytes(pickle.dumps((list(facts), cache.load(range(30), 24), seen[0][2])))


def drawn(crawl: Path) -> list[Sample]:
    return [Sample(file.name, file.name, str(file), None, "a") for file in [*sorted(crawl.iterdir()), crawl / "gone"]]


@pytest.mark.slow
@posix
def test_a_rank_that_dies_inspecting_is_started_again_and_opens_what_is_left(tmp_path: Path):
    draw_pictures(tmp_path / "crawl")
    at_every_rank(inspect_and_be_killed, tmp_path / "two", restarts=1)
    facts, squares, left = pickle.loads((tmp_path / "two" / "found.pkl").read_bytes())
    assert left <= (32 - 12) / 2  # for rank 0
    alone, cache = inspection.inspect(drawn(tmp_path / "crawl"), tmp_path / "pixels", 24, 0, silent)
    assert facts == list(alone)
    np.testing.assert_array_equal(squares, cache.load(range(30), 24))


@pytest.mark.slow
@pytest.mark.timeout(900)
@posix
def test_two_ranks_give_the_verdicts_of_one(tmp_path: Path):
    finished(torchrun(*FIT, "--out", str(tmp_path / "two")))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "two" / "manifest.csv"), fitted_alone(tmp_path / "one"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@posix
def test_a_rank_that_dies_is_started_again(tmp_path: Path):
    out = tmp_path / "two"
    run = torchrun(*FIT, "--out", str(out), restarts=3)
    checkpoint = out / "unfinished" / "learning" / "fold 2 of 9.pt"  # rank 1's
    while not checkpoint.exists() and run.poll() is None:
        time.sleep(0.01)
    os.kill(rank_1(out), signal.SIGKILL)
    finished(run)
    pd.testing.assert_frame_equal(pd.read_csv(out / "manifest.csv"), fitted_alone(tmp_path / "one"))


def rank_1(out: Path) -> int:
    """The process of rank 1 that fits into this folder (Linux)."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words, set_to = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if str(out).encode() in words and b"\0RANK=1\0" in b"\0" + set_to:
            return int(process.name)
    raise AssertionError("there is no rank 1")


@pytest.mark.slow
@pytest.mark.timeout(900)
@posix
def test_two_hosts(tmp_path: Path):
    runs = [torchrun(*FIT, "--out", str(tmp_path / "two"), nodes=2, each=1, port=29_511) for _ in range(2)]
    for run in runs:
        finished(run)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "two" / "manifest.csv"), fitted_alone(tmp_path / "one"))
