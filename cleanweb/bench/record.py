"""What is written down of one trial: one JSON file a result, named after what was tried.

A result says which world, with which settings, how right the verdicts are (`metrics.judge`), how good the classifier
is, what it cost, and where it comes from: versions, commit, machine. It names no folder of the machine it was made on.
"""

import json
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cleanweb import __version__, atomic
from cleanweb.bench.worlds import Made
from cleanweb.errors import UsageError
from cleanweb.settings import fingerprint

CLASSIFIER = (  # accuracies on clean test images, in [0, 1]
    "test_accuracy",
    "test_accuracy_mean_last_10",
    "test_epochs_seen",
    "teacher_test_accuracy",  # of the network that learned from the noisy labels
    "teacher_test_accuracy_mean_last_10",
    "teacher_epochs_seen",
)
COST = ("seconds", "images_per_second", "peak_memory_mb")
_NAMING = ("method", "recipe", "backbone", "tune", "epochs")  # the settings that a file name shows
_CHECKOUT = Path(__file__).parents[2]

Result = dict[str, Any]


def name(made: Made, settings: Result) -> str:
    """World, seed, the settings that matter most, and a digest of all of them: other settings, another name. The device
    is left out: what was tried on one need not be tried on another."""
    digest = fingerprint([made.facts, {key: value for key, value in settings.items() if key != "device"}])[:6]
    parts = [made.world.name, made.seed, *(settings[key] for key in _NAMING if settings[key] is not None), digest]
    return re.sub(r"[^\w.+-]", "-", "-".join(map(str, parts)))


def record(made: Made, settings: Result, metrics: Result, classifier: Result, cost: Result) -> Result:
    """One result, ready for JSON; the settings name the device it was made on. None stands where nothing was measured
    of the classifier or the cost."""
    return {
        "world": made.world.name,
        "source": made.source,
        "world_seed": made.seed,
        "settings": settings,
        "metrics": metrics,
        "classifier": dict.fromkeys(CLASSIFIER) | classifier,
        **dict.fromkeys(COST),
        **cost,
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(str(settings["device"])),
    }


def write(result: Result, file: Path) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(file, json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read(file: Path) -> Result:
    """What `write` wrote. Raises UsageError where the file is something else."""
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        result = None
    if not isinstance(result, dict) or not {"world", "settings", "metrics", "classifier"} <= result.keys():
        raise UsageError(f"{file} is not a result of `cleanweb bench run`. Remove it.")
    return result


def read_all(folder: Path) -> list[Result]:
    """All results in a folder, in the order of their names; none where there is no folder."""
    return [read(file) for file in sorted(folder.glob("*.json"))]


# --- where a result comes from --------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Of Python, of cleanweb and of what it computes with."""
    libraries = {library: version(library) for library in ("torch", "timm", "numpy", "scikit-learn")}
    return {"python": platform.python_version(), "cleanweb": __version__} | libraries


def commit() -> str | None:
    """The commit of the checkout that this file lies in, "+dirty" where the tree differs from it; None where it lies in
    none."""
    if not (_CHECKOUT / ".git").exists():
        return None
    words = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+dirty"]
    try:
        return subprocess.run(words, cwd=_CHECKOUT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git here, or a repository of someone else
        return None


def hardware(device: str) -> dict[str, object]:
    """The processor, the cores that may be used, and the GPU where one was."""
    import torch

    from cleanweb.machine import cores

    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {"cpu": _processor(), "cores": cores(), "gpu": gpu}


def _processor() -> str:
    """Its model, as far as the machine tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()
