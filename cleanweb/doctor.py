"""What this machine offers, and what to do where that is not enough.

Takes nothing, gives findings, prints nothing, never raises and never touches the network. Whatever can crash or hang
(torch and its kin) is imported in a process of its own. A few seconds, most of them torch's import.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from cleanweb.settings import DEFAULT_BACKBONE
from cleanweb.workers import free_memory

GB = 1e9
LEAST_MEMORY_GB = 2  # torch, and a small network on images of 32 px
LEAST_DISK_GB = 2  # the decoded cache of 100,000 small images, and the manifest
PATIENCE_S = 120  # a first import of torch from a slow disk takes a minute

# A CPU-only build and a CUDA build carry the same version, so that `--upgrade` would leave both as they are.
REINSTALL = (
    "Install both together, from one index: pip uninstall -y torch torchvision, then pip install torch torchvision "
    "(without a GPU: pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu)."
)


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ok None: neither good nor bad, but good to know. advice: empty where there is none."""

    name: str
    ok: bool | None
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Look at everything, in the order in which it matters."""
    probed = probe()
    checks: tuple[Callable[[], Finding], ...] = (
        check_python,
        lambda: check_torch(probed),
        lambda: check_library("timm", probed),
        lambda: check_library("duckdb", probed),
        check_pillow,
        lambda: check_gpu(probed),
        check_threads,
        check_memory,
        check_disk,
        check_weights,
    )
    return [_guarded(check) for check in checks]


def _guarded(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # a strange machine must not keep the doctor from the other findings
        name = getattr(check, "__name__", "").removeprefix("check_")
        return Finding(name, None, f"could not be examined: {type(error).__name__}: {error}")


# --- what may crash: looked at from outside ----------------------------------------------------------------------

# Runs in a process of its own; one line of JSON per thing, so that a crash leaves what was found before it.
PROBE = """
import importlib, json

def library(name):
    module = importlib.import_module(name)
    return {"version": module.__version__}

def torch():
    import torch
    cuda, hip = torch.version.cuda, torch.version.hip
    built_for = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "CPU only"
    return {"version": torch.__version__, "built_for": built_for}

def torchvision():
    import torch, torchvision
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    return {"version": torchvision.__version__}

def gpu():
    import torch
    cuda, mps = torch.cuda, torch.backends.mps.is_available()
    devices = [cuda.get_device_properties(i) for i in range(cuda.device_count())]
    bf16 = bool(devices) and cuda.is_bf16_supported(including_emulation=False)
    return {"devices": [[d.name, d.total_memory] for d in devices], "bf16": bf16, "mps": mps}

looks = {"duckdb": lambda: library("duckdb"), "torch": torch, "torchvision": torchvision,
         "timm": lambda: library("timm"), "gpu": gpu}
for name, look in looks.items():
    try:
        found = look()
    except BaseException as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    print("\\n" + json.dumps({name: found}), flush=True)
"""


def probe(code: str = PROBE, patience_s: float = PATIENCE_S) -> dict[str, dict[str, Any]]:
    """Run the probe; what it found of each thing, and under "end" how it ended where that was not well."""
    command = [sys.executable, "-P", "-c", code]  # -P: a torch.py in the current folder is not torch
    try:
        done = subprocess.run(command, capture_output=True, timeout=patience_s, stdin=subprocess.DEVNULL,
                              check=False)  # fmt: skip
        output, end = done.stdout, f"the process ended with exit code {done.returncode}" if done.returncode else ""
    except subprocess.TimeoutExpired as slow:
        output, end = slow.stdout or b"", f"took longer than {patience_s:g} s"
    except OSError as error:
        output, end = b"", str(error)
    late = end.startswith("took longer")
    found: dict[str, dict[str, Any]] = {"end": {"error": end, "late": late}} if end else {}
    for line in output.decode(errors="replace").splitlines():
        if line.startswith("{"):
            found |= json.loads(line)
    return found


def _of(name: str, probed: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the probe says of one thing; where it says nothing, how the probe ended."""
    return probed.get(name) or probed.get("end") or {"error": "nothing could be learned"}


def check_torch(probed: dict[str, dict[str, Any]]) -> Finding:
    """torch and torchvision import, and fit: torchvision's own operators are there and run."""
    name, torch, vision = "torch, torchvision", _of("torch", probed), _of("torchvision", probed)
    if torch.get("late") or vision.get("late"):
        return _late(name, vision)
    if "error" in torch:
        advice = "Install it: pip install torch torchvision." if "No module" in torch["error"] else REINSTALL
        return Finding(name, False, f"import torch fails: {_first_line(torch['error'])}", advice)
    pair = f"torch {torch['version']} (built for {torch['built_for']})"
    if "error" in vision:
        beside = f"{pair} beside torchvision {_installed('torchvision')}"
        return Finding(name, False, f"{beside} do not fit: {_first_line(vision['error'])}", REINSTALL)
    return Finding(name, True, f"{pair}, torchvision {vision['version']}")


def _late(name: str, found: dict[str, Any]) -> Finding:
    """A slow import says nothing of what is wrong."""
    advice = "The machine is busy, or its disk is slow: nothing is known to be wrong. Try again when less is running."
    return Finding(name, None, f"the import {found['error']}", advice)


def check_library(name: str, probed: dict[str, dict[str, Any]]) -> Finding:
    found = _of(name, probed)
    if "error" not in found:
        return Finding(name, True, found["version"])
    if found.get("late"):
        return _late(name, found)
    if name == "timm" and "error" in _of("torchvision", probed):
        return Finding(name, None, "cannot be imported before torch and torchvision fit")
    return Finding(name, False, _first_line(found["error"]), f"pip install --upgrade {name}")


def check_gpu(probed: dict[str, dict[str, Any]]) -> Finding:
    found = _of("gpu", probed)
    if devices := found.get("devices"):
        words = ", ".join(f"{name} ({memory / GB:.0f} GB)" for name, memory in devices)
        return Finding("GPU", True, f"{words}, bfloat16: {'yes' if found['bf16'] else 'no'}")
    if found.get("mps"):
        return Finding("GPU", True, "Apple GPU (MPS)")
    if any(Path("/dev").glob("nvidia[0-9]*")) or shutil.which("nvidia-smi"):
        build = _of("torch", probed).get("built_for", "?")
        advice = "Update the NVIDIA driver, or install a torch build for it: https://pytorch.org/get-started/locally/"
        return Finding("GPU", False, f"an NVIDIA GPU or its driver is here, but torch (built for {build}) finds none",
                       advice)  # fmt: skip
    return Finding("GPU", None, "none: everything runs on the CPU", "On a CPU, --tune head is the quick way to train.")


def _installed(package: str) -> str:
    """The version that is written in the package itself, which names its build; read without importing it."""
    try:
        files = [file for file in metadata.files(package) or [] if str(file) == f"{package}/version.py"]
        return re.findall(r"__version__ = ['\"](.+?)['\"]", files[0].read_text())[0]
    except (metadata.PackageNotFoundError, OSError, IndexError):
        return "(not installed)"


def _first_line(error: str) -> str:
    return (error.strip().splitlines() or ["no reason given"])[0][:200]


# --- what can be looked at from here -----------------------------------------------------------------------------


def check_python() -> Finding:
    ok = sys.version_info >= (3, 11)
    found = f"{platform.python_version()} in {sys.prefix}"
    return Finding("Python", ok, found, "" if ok else "cleanweb needs Python 3.11 or newer.")


def check_pillow() -> Finding:
    import PIL
    from PIL import features

    kinds = {"jpg": "JPEG", "webp": "WebP", "avif": "AVIF", "libtiff": "TIFF", "jpg_2000": "JPEG 2000"}
    has = set(features.get_supported())  # asking for one by name warns where Pillow does not know it
    missing = [kind for feature, kind in kinds.items() if feature not in has]
    found = f"{PIL.__version__} reads {', '.join(kind for feature, kind in kinds.items() if feature in has)}"
    if not missing:
        return Finding("Pillow", True, found)
    advice = f"{' and '.join(missing)} files will be unusable. Get them with pip install --upgrade pillow"
    return Finding("Pillow", False if {"JPEG", "WebP"} & set(missing) else None, found, advice)


def check_threads() -> Finding:
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    if limit.isdigit() and int(limit) < threads:
        return Finding("CPU", None, f"{threads} threads, {limit} of them used", "OMP_NUM_THREADS holds torch back.")
    return Finding("CPU", True, f"{threads} threads")


def check_memory() -> Finding:
    available = free_memory()
    if available is None:
        return Finding("memory", None, "unknown on this system")
    ok = available >= LEAST_MEMORY_GB * GB
    advice = "" if ok else f"Training needs about {LEAST_MEMORY_GB} GB: close other programs, or lower --batch-size."
    return Finding("memory", ok, f"{available / GB:.1f} GB available", advice)


def check_disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    ok = free >= LEAST_DISK_GB * GB
    advice = "" if ok else "Make room, or put the run folder elsewhere with --out."
    return Finding("disk", ok, f"{free / GB:.1f} GB free in {Path.cwd()}", advice)


def check_weights() -> Finding:
    """Whether the default backbones lie in Hugging Face's cache. Says nothing of the network: it is not asked."""
    from huggingface_hub import constants

    cache, offline = Path(constants.HF_HUB_CACHE), constants.HF_HUB_OFFLINE
    here = [name for name in dict.fromkeys(DEFAULT_BACKBONE.values()) if _is_cached(cache, name)]
    where = f"in {cache}{', HF_HUB_OFFLINE is set' if offline else ''}"
    if here:
        return Finding("pretrained weights", True, f"{', '.join(here)} {where}")
    fetch = f"hf download timm/{DEFAULT_BACKBONE['cpu']}"
    if offline:
        advice = f"Unset HF_HUB_OFFLINE, or bring the cache from a machine that has run: {fetch}"
    else:
        advice = f"fit fetches them from huggingface.co, else trains a small network. To have them beforehand: {fetch}"
    return Finding("pretrained weights", None, f"none {where}", advice)


def _is_cached(cache: Path, name: str) -> bool:
    snapshots = cache / f"models--timm--{name}" / "snapshots"
    return any(file.exists() for file in snapshots.glob("*/*.safetensors"))  # a link whose file is gone: not there
