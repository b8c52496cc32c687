"""What a run costs as the crawl grows: seconds and memory of every stage, over all processes, and the rows written.

The product itself is run, in a process of its own, on a crawl that `crowd.py` makes; a watcher in that process reads
the operating system's books (Linux). Processor seconds are those of all processes: they grow here as on a machine
without other work. Memory over all processes is the proportional set size: pages that several share count once, and
pages of files that are mapped count while they are held. What grows with the crawl for good is the main process's
anonymous memory, which is told apart.
"""

import contextlib
import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from cleanweb import atomic, deciding, inspection, manifest, pipeline, readers, retagging, score, tune
from cleanweb.backbone import Backbone
from cleanweb.bench.record import Result, commit, hardware, versions
from cleanweb.classifier import save_classifier
from cleanweb.errors import MachineError
from cleanweb.settings import Settings

_TICK_S, _TELL_S = 0.2, 10.0
_MB = 2**20

# stage → what does it, looked up when it is called
STAGES: dict[str, tuple[Any, str]] = {
    "read": (readers, "read"),
    "inspect": (inspection, "inspect"),
    "duplicates": (inspection, "copies_among"),
    "features": (tune, "extract"),
    "learn": (tune.Head, "learn"),
    "score": (score, "score"),
    "decide": (deciding, "judged"),
    "classifier": (tune.Head, "retrain"),
    "write": (manifest, "write"),
    "report": (pipeline, "write_if_possible"),
    "retag": (retagging, "_decided_again"),
}
BETWEEN = "between"  # whatever is none of these


# --- the operating system's books -----------------------------------------------------------------------------------


def _anonymous_mb(pid: int | str = "self") -> float:
    """What a process holds besides pages of files, in MB."""
    return _kilobytes(f"/proc/{pid}/status", "RssAnon") / 1024


def _all_mb() -> float:
    """The proportional set size of this process and all its descendants, in MB."""
    return sum(_kilobytes(f"/proc/{pid}/smaps_rollup", "Pss") / 1024 for pid in _family())


def _cpu_seconds() -> float:
    """What this process and all its descendants have had of all processors, those that have ended among them."""
    ticks = 0
    for pid in _family():
        with contextlib.suppress(OSError):
            after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
            # utime, stime, and those of children that were waited for
            ticks += sum(map(int, after_name.split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _family() -> Iterator[str]:
    """This process and all its descendants."""
    processes = ["self"]
    while processes:
        pid = processes.pop()
        yield pid
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                processes += (task / "children").read_text(encoding="ascii").split()


def _kilobytes(file: str, name: str) -> int:
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB", Path(file).read_text(encoding="ascii"), re.MULTILINE)
    except OSError:  # it has ended
        return 0
    return int(found[1]) if found else 0


# --- the stages' books ---------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """What a stage has cost so far."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0  # over all processes
    peak_mb: float = 0.0  # over all processes
    main_mb: float = 0.0  # anonymous memory of the main process, at most


@dataclass
class Books:
    """Books of what each stage costs, kept while they are open."""

    stages: dict[str, Stage] = field(default_factory=dict)
    now: list[str] = field(default_factory=lambda: [BETWEEN])
    since: float = field(default_factory=time.perf_counter)
    spent: float = field(default_factory=_cpu_seconds)
    watching: float = 0.0  # processor seconds that these books have taken themselves

    def enter(self, stage: str) -> None:
        self._book()
        self.now.append(stage)

    def leave(self) -> None:
        self._book()
        self.now.pop()

    def _book(self) -> None:
        at, spent = time.perf_counter(), _cpu_seconds() - self.watching
        stage = self.stages.setdefault(self.now[-1], Stage())
        stage.seconds, self.since = stage.seconds + at - self.since, at
        stage.cpu_seconds, self.spent = stage.cpu_seconds + spent - self.spent, spent
        stage.main_mb = max(stage.main_mb, _anonymous_mb())

    def watch(self, end: threading.Event, file: Path) -> None:
        """Look five times a second; what is known so far is in the file, should the process be ended."""
        told = time.perf_counter()
        while not end.wait(_TICK_S):
            stage = self.stages.setdefault(self.now[-1], Stage())
            stage.peak_mb = max(stage.peak_mb, _all_mb())
            stage.main_mb = max(stage.main_mb, _anonymous_mb())
            self.watching = time.thread_time()
            if time.perf_counter() - told > _TELL_S:
                told = time.perf_counter()
                atomic.write_text(file, json.dumps(self.told()))

    def told(self) -> dict[str, Result]:
        return {name: dict(vars(stage)) for name, stage in list(self.stages.items())}


@contextlib.contextmanager
def books(file: Path) -> Iterator[Books]:
    """Books of all that happens in the block; the product's own functions are wrapped meanwhile."""
    kept, end = Books(), threading.Event()
    watcher = threading.Thread(target=kept.watch, args=(end, file), daemon=True)
    before = {stage: getattr(*place) for stage, place in STAGES.items()}
    for stage, (place, name) in STAGES.items():
        setattr(place, name, _booked(kept, stage, before[stage]))
    watcher.start()
    try:
        yield kept
    finally:
        end.set()
        watcher.join()
        kept.leave()
        for stage, (place, name) in STAGES.items():
            setattr(place, name, before[stage])


def _booked(kept: Books, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if stage in kept.now:  # a stage within itself
            return function(*args, **kwargs)
        kept.enter(stage)
        try:
            return function(*args, **kwargs)
        finally:
            kept.leave()

    return wrapper


# --- one size -------------------------------------------------------------------------------------------------------


def measure(crawl: Path, work: Path, epochs: int, batch_size: int, backbone: str | None, workers: int | None) -> Result:
    """Run `fit` and `retag` on a crawl, in a process of its own: their stages' seconds and memory. work: a folder for
    the run, made. Raises MachineError where the system keeps no such books, or the process ends before its time."""
    if not Path("/proc/self/smaps_rollup").exists():
        raise MachineError("Memory is measured from Linux's /proc, which is not there.")
    work.mkdir(parents=True, exist_ok=True)
    told = work / "books.json"
    asked = (crawl, work, epochs, batch_size, backbone, workers, told)
    process = get_context("spawn").Process(target=_measured, args=asked)
    process.start()
    process.join()
    if process.exitcode:
        raise MachineError(f"The run on {crawl} ended with {process.exitcode}; see above.")
    return json.loads(told.read_text(encoding="utf-8"))


def _measured(
    crawl: Path, work: Path, epochs: int, batch_size: int, backbone: str | None, workers: int | None, told: Path
) -> None:
    network = f"local-dir:{_tiny(work)}" if backbone is None else backbone
    settings = Settings(crawl, out=work / "run", backbone=network, tune="head", epochs=epochs, batch_size=batch_size,
                        workers=workers, fresh=True)  # fmt: skip
    start = _anonymous_mb()
    with books(work / "fit.json") as of_fit:
        run = pipeline.fit(settings)
    [n] = manifest.rows(run.folder, "SELECT count(*) AS n FROM images")["n"]
    with books(work / "retag.json") as of_retag:
        retagging.retag(work / "run")
    both = {name: of_fit.stages[name] for name in of_fit.stages} | {"retag": _whole(of_retag.stages)}
    learned = {name: dict(vars(stage)) for name, stage in both.items()}
    size = sum(file.stat().st_size for file in (work / "run").rglob("*") if file.is_file())
    result = {"images": int(n), "main_mb_at_start": start, "stages": learned, "run_bytes": size}
    atomic.write_text(told, json.dumps(result))


def _whole(stages: Mapping[str, Stage]) -> Stage:
    """All stages of a command as one."""
    return Stage(
        sum(stage.seconds for stage in stages.values()),
        sum(stage.cpu_seconds for stage in stages.values()),
        max(stage.peak_mb for stage in stages.values()),
        max(stage.main_mb for stage in stages.values()),
    )


def _tiny(folder: Path) -> Path:
    """A small network of random weights: what it sees is not the question here."""
    import torch

    torch.manual_seed(0)
    place = folder / "tiny"
    save_classifier(Backbone("test_convnext", False).build(2), place, ["a", "b"], 32)
    return place


# --- several sizes --------------------------------------------------------------------------------------------------


def growth(results: list[Result]) -> dict[str, list[float | None]]:
    """The exponent of every stage's processor seconds from each size to the next: ln(t₂/t₁) / ln(n₂/n₁)."""
    ordered = sorted(results, key=lambda result: result["images"])
    names = list(dict.fromkeys(name for result in ordered for name in result["stages"]))
    return {name: [_exponent(name, a, b) for a, b in pairwise(ordered)] for name in names}


def _exponent(stage: str, a: Result, b: Result) -> float | None:
    before, after = (result["stages"].get(stage, {}).get("cpu_seconds", 0.0) for result in (a, b))
    if not before or not after:
        return None
    return math.log(after / before) / math.log(b["images"] / a["images"])


def bytes_an_image(a: Result, b: Result) -> float:
    """How much the main process's anonymous memory grows with every image, at the most."""
    most = [max(stage["main_mb"] for stage in result["stages"].values()) for result in (a, b)]
    return (most[1] - most[0]) * _MB / (b["images"] - a["images"])


def record(results: list[Result]) -> Result:
    """The results of several sizes, ready for JSON: with the exponents, and the main process's bytes an image, from
    each size to the next."""
    ordered = sorted(results, key=lambda result: result["images"])
    return {
        "sizes": ordered,
        "exponents": growth(ordered),
        "main_bytes_an_image": [bytes_an_image(a, b) for a, b in pairwise(ordered)],
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware("cpu"),
    }
