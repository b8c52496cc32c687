"""A disk that is really full: every command that writes says so, exits with 5, and leaves what was there."""

import os
import shutil
from pathlib import Path

import pytest

from cleanweb import manifest
from cleanweb.backbone import Backbone
from cleanweb.classifier import save_classifier
from cleanweb.errors import MachineError
from cleanweb.settings import FORMATS
from tests.test_cli import cleanweb


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*"))
            if p.is_file() and p.suffix not in (".lock", ".wal")}  # fmt: skip


def fill(disk: Path, room: int) -> None:
    """Leave so many bytes free."""
    state = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(max(0, state.f_bavail * state.f_bsize - room)))


COMMANDS = ["retag", "report", "report --out DISK/page.html", "audit --sheet DISK/sheet.csv",
            *(f"export --format {name} --out DISK/out" for name in FORMATS if name != "parquet"),
            *(f"export-model --format {name} --out DISK/out" for name in ("timm", "torch-export"))]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_on_a_full_disk_says_so_and_leaves_what_was_there(command: str, run: Path, disk: Path) -> None:
    own = shutil.copytree(run, disk / "run")
    fill(disk, 4096)
    before = contents(disk)
    code, _, err = cleanweb(*command.replace("DISK", str(disk)).split(), "--run", own)
    assert (code, "No space left on device" in err) == (5, True), err
    assert contents(disk) == before
    (disk / "filler").unlink()
    assert cleanweb(*command.replace("DISK", str(disk)).split(), "--run", own)[0] == 0


def test_answers_on_a_full_disk_are_not_half_stored(run: Path, disk: Path, tmp_path: Path) -> None:
    """DuckDB's COMMIT fails there, in words of its own."""
    own = shutil.copytree(run, disk / "run")
    assert cleanweb("audit", "--run", own, "--sheet", tmp_path / "sheet.csv")[0] == 0
    manifest.settle(own)
    sheet = tmp_path / "sheet.csv"
    rows = sheet.read_text(encoding="utf-8").splitlines()
    sheet.write_text("\n".join([rows[0], *(row.replace(",?,", ",red,") for row in rows[1:])]), encoding="utf-8")
    fill(disk, 4096)
    before = {name: manifest.read(own, name) for name in ("images", "audits", "reviews")}
    code, _, err = cleanweb("audit", "--run", own, "--answers", sheet)
    assert (code, "No space left on device" in err) == (5, True), err
    for name, table in before.items():
        assert manifest.read(own, name).equals(table), name
    (disk / "filler").unlink()
    assert cleanweb("audit", "--run", own, "--answers", sheet)[0] == 0
    assert manifest.read(own, "audits")["answer"].eq("class").all()


@pytest.mark.parametrize("room", [0.3, 8, 20])
def test_a_fit_whose_disk_fills_up_leaves_the_old_run(room: float, run: Path, crawl: Path, disk: Path) -> None:
    """While it inspects, or learns; with room again it goes on. room: MB."""
    own = shutil.copytree(run, disk / "run")
    fill(disk, int(room * 1e6))
    before = contents(disk)
    words = ("fit", crawl, "--out", own, "--fresh", "--backbone", "cnn5", "--epochs", 1, "--set", "rounds=1",
             "--workers", 0, "--device", "cpu")  # fmt: skip
    code, _, err = cleanweb(*words)
    assert (code, "No space left on device" in err) == (5, True), err
    assert {name: content for name, content in contents(disk).items() if "unfinished" not in name} == before
    (disk / "filler").unlink()
    assert cleanweb(*words)[0] == 0
    assert not (own / "unfinished").exists()


def test_a_classifier_on_a_full_disk(small_disk: Path) -> None:
    """safetensors has an error of its own."""
    fill(small_disk, 4096)
    with pytest.raises(MachineError, match="No space left on device"):
        save_classifier(Backbone("cnn5", False).build(3), small_disk / "classifier", ["a", "b", "c"], 32)
