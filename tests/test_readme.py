"""The README cannot lie: its commands are run on the sample crawl, its file map lists every file, its words are the
code's. The verdicts of its first command are held against the truth."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.main import get_command

from cleanweb import manifest, schema, settings
from cleanweb.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.strip().splitlines()]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it, in which the README's first command has been run."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "sample_data", folder / "sample_data")
    install, fit = COMMANDS[0].split(" && ")
    assert install == "pip install ."
    done = cleanweb(fit, folder)
    assert done.returncode == 0, done.stderr
    return folder


def cleanweb(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program, *words = shlex.split(command)
    assert program == "cleanweb"
    return subprocess.run([sys.executable, "-m", "cleanweb", *words], cwd=folder, capture_output=True, text=True,
                          check=False, timeout=850)  # fmt: skip


def test_the_ci_runs_the_readmes_test_command() -> None:
    install, test = COMMANDS[1].split(" && ")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert install.removeprefix("pip ") in script
    assert test.removeprefix("python ") in script


@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", COMMANDS[2:])
def test_every_command_runs(command: str, clone: Path) -> None:
    done = cleanweb(command, clone)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def mentioned() -> list[str]:
    """The commands that stand in a line of text, in a table or alone in a line, and are not run as they are."""
    inline = re.findall(r"`(cleanweb [^`]+)`", README)
    alone = re.findall(r"^ {4}(cleanweb [^#\n]+)", README, re.MULTILINE)
    return sorted({re.sub(r" …| \.\.\.", "", command).strip() for command in inline + alone})


@pytest.mark.parametrize("command", mentioned())
def test_every_command_that_is_mentioned_is_one(command: str) -> None:
    """It has that name and those options, whatever the files in it."""
    group, words = get_command(app), shlex.split(command)[1:]
    context = group.make_context("cleanweb", [], resilient_parsing=True)
    while words and hasattr(group, "commands") and words[0] in group.commands:
        group = group.commands[words.pop(0)]
        context = group.make_context(group.name, [], parent=context, resilient_parsing=True)
    assert not hasattr(group, "commands") or all(word.startswith("-") for word in words), "there is no such command"
    group.make_parser(context).parse_args(words)


@pytest.mark.timeout(900)
def test_the_python_runs(clone: Path) -> None:
    (script := clone / "own.py").write_text(re.search(r"```python\n(.*?)```", README, re.DOTALL)[1], encoding="utf-8")
    done = subprocess.run([sys.executable, script], cwd=clone, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "images in" in done.stdout
    assert (clone / "clean.csv").exists()


@pytest.mark.timeout(900)
def test_the_sample_verdicts_are_right(clone: Path) -> None:
    """Macro-F1 of clean, relabeled and ood over the pictures whose truth is known: 80 to 87 %, by machine."""
    images = manifest.read(clone / "cleanweb-run", "images")
    truth = pd.read_csv(ROOT / "sample_data" / "truth.csv", dtype=str, keep_default_na=False)
    truth = truth.drop_duplicates("path").set_index("path")["truth"]
    known = images[images["path"].isin(truth.index) & (images["verdict"] != "unusable")]
    true_label = truth.loc[known["path"]].to_numpy()
    right = ["ood" if not t else "clean" if t == g else "relabeled" for t, g in zip(true_label, known["given_label"],
                                                                                  strict=True)]  # fmt: skip
    scores = [f1(known["verdict"] == v, pd.Series(right, known.index) == v) for v in ("clean", "relabeled", "ood")]
    assert sum(scores) / 3 >= 0.78, scores


def f1(found: pd.Series, true: pd.Series) -> float:
    return 2 * float((found & true).sum()) / float(found.sum() + true.sum())


def test_the_file_map_lists_every_file() -> None:
    block = re.search(r"```text\n(cleanweb/.*?)```", README, re.DOTALL)
    assert block is not None
    listed = set(re.findall(r"^ +([\w/]+\.py)", block[1], re.MULTILINE))
    there = {str(path.relative_to(ROOT / "cleanweb")) for path in (ROOT / "cleanweb").rglob("*.py")}
    assert listed == there


def test_columns_verdicts_and_defaults_are_the_codes() -> None:
    columns = {name for table in schema.TABLES.values() for name, _, _ in table}
    table = README.split("| column | |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| (.*?) \|", table, re.MULTILINE)) - {"---"}
    for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        assert set(re.findall(r"`(\w+)`", cell)) <= columns
    for name in (*settings.DEFAULT_BACKBONE.values(), settings.DEFAULT_RUN):
        assert name in README
