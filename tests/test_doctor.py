"""The doctor finds what is wrong with a machine, says what to do, and survives whatever it finds."""

import os
from pathlib import Path

import pytest
from PIL import features

from cleanweb import doctor

GOOD_TORCH = {"version": "2.11.0+cpu", "built_for": "CPU only"}
TORCH = """
import types
__version__ = "2.11.0+cpu"
version = types.SimpleNamespace(cuda=None, hip=None)
"""
LACKS_NMS = "raise RuntimeError('operator torchvision::nms does not exist')"


@pytest.fixture
def probe_with(tmp_path, monkeypatch):
    """Run the doctor's own probe where other packages of these names are installed."""

    def run(**modules: str) -> dict[str, dict]:
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return doctor.probe()

    return run


def test_this_machine_is_examined_in_silence(capfd):
    found = {finding.name: finding for finding in doctor.examine()}
    assert capfd.readouterr() == ("", "")
    assert list(found) == ["Python", "torch, torchvision", "timm", "duckdb", "Pillow", "GPU", "CPU", "memory", "disk",
                           "pretrained weights"]  # fmt: skip
    for name in ("Python", "torch, torchvision", "timm", "duckdb"):
        assert found[name].ok, found[name]
    assert all(finding.found for finding in found.values())
    assert all(finding.advice for finding in found.values() if finding.ok is False)


def test_a_torchvision_of_another_build_is_told_with_what_to_install(probe_with):
    probed = probe_with(torch=TORCH, torchvision=LACKS_NMS, timm="import torchvision", duckdb="__version__ = '1.2'")
    finding = doctor.check_torch(probed)
    assert finding.ok is False
    assert "torch 2.11.0+cpu (built for CPU only) beside torchvision" in finding.found
    assert "torchvision::nms" in finding.found
    assert "pip install torch torchvision" in finding.advice
    assert doctor.check_library("timm", probed).ok is None  # not timm's fault
    assert doctor.check_library("duckdb", probed).found == "1.2"


def test_a_torch_that_crashes_costs_nothing_else(probe_with):
    probed = probe_with(torch="import os; os.abort()", duckdb="__version__ = '1.2'")
    assert doctor.check_library("duckdb", probed).ok
    for check in (doctor.check_torch, doctor.check_gpu):
        assert check(probed).found
    assert doctor.check_torch(probed).ok is False
    assert "exit code" in doctor.check_torch(probed).found


def test_a_torch_that_is_not_there(probe_with):
    finding = doctor.check_torch(probe_with(torch="raise ModuleNotFoundError(\"No module named 'torch'\")", duckdb=""))
    assert finding.ok is False
    assert finding.advice == "Install it: pip install torch torchvision."


def test_an_import_that_hangs_ends():
    probed = doctor.probe('import time; print(\'{"duckdb": {"version": "1"}}\', flush=True); time.sleep(60)', 2)
    finding = doctor.check_torch(probed)
    assert "took longer than 2 s" in finding.found
    assert (finding.ok, "Try again" in finding.advice) == (None, True)  # nothing is to be installed anew
    assert doctor.check_library("timm", probed).ok is None
    assert doctor.check_library("duckdb", probed).ok


def test_a_check_that_fails_is_a_finding(monkeypatch):
    def check_disk():
        raise OSError("no such folder")

    monkeypatch.setattr(doctor, "probe", dict)
    monkeypatch.setattr(doctor, "check_disk", check_disk)
    finding = next(finding for finding in doctor.examine() if finding.name == "disk")
    assert (finding.ok, finding.found) == (None, "could not be examined: OSError: no such folder")


def test_gpus(monkeypatch):
    here = {"gpu": {"devices": [["NVIDIA H200", 150e9]], "bf16": True, "mps": False}}
    assert doctor.check_gpu(here).found == "NVIDIA H200 (150 GB), bfloat16: yes"
    none = {"torch": GOOD_TORCH, "gpu": {"devices": [], "bf16": False, "mps": False}}
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/" + name)
    assert doctor.check_gpu(none).ok is False  # a driver is here, and torch finds no device
    assert "CPU only" in doctor.check_gpu(none).found


def test_pillow_without_avif_is_a_note_and_without_webp_a_fault(monkeypatch):
    kinds = ["jpg", "webp", "libtiff", "jpg_2000"]
    monkeypatch.setattr(features, "get_supported", lambda: kinds)
    finding = doctor.check_pillow()
    assert finding.ok is None
    assert finding.advice.startswith("AVIF files will be unusable")
    kinds.remove("webp")
    assert doctor.check_pillow().ok is False


def test_threads_that_are_held_back(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert doctor.check_threads().found == "8 threads, 2 of them used"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert doctor.check_threads().ok


def test_weights_are_looked_for_in_the_cache_and_nowhere_else(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "Unset HF_HUB_OFFLINE" in doctor.check_weights().advice
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert "hf download timm/" in doctor.check_weights().advice
    name = doctor.DEFAULT_BACKBONE["cpu"]
    snapshot = Path(tmp_path, f"models--timm--{name}", "snapshots", "abc")
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    assert doctor.check_weights().ok
    assert name in doctor.check_weights().found
