"""The help pages, shell completion, -v, and progress: what a user sees before anything is computed."""

import logging
import os
import subprocess
import sys
import time

import pytest
import typer
from typer.testing import CliRunner

from cleanweb import terminal
from cleanweb.cli import app
from tests.test_cli import cleanweb

COMMANDS = list(typer.main.get_command(app).commands)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["bench", "run"]])
def test_every_help_page_is_plain_and_fits(command: list[str]) -> None:
    code, page, _ = cleanweb(*command, "--help")
    assert code == 0
    assert not set(page) & set("╭│╰\x1b")
    assert max(map(len, page.splitlines())) <= 100
    assert cleanweb(*command, "-h")[1] == page


def test_the_list_of_commands_breaks_off_in_no_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    page = cleanweb("--help")[1]
    listed = page[page.index("Commands:") :].splitlines()[1:]
    assert len(listed) == len(COMMANDS)
    assert all(line.endswith(".") and "..." not in line for line in listed)


def test_the_commands_stand_in_the_order_of_the_work() -> None:
    order = ["fit", "report", "sql", "retag", "export", "predict", "doctor", "bench"]
    assert [name for name in COMMANDS if name in order] == order


def test_the_page_of_fit_has_groups_and_examples() -> None:
    page = cleanweb("fit", "--help")[1]
    places = [
        page.index(f"\n{title}:") for title in ("What goes in", "What comes out", "Learning", "Network", "Machine")
    ]
    assert places == sorted(places)
    assert page.index("Examples:") < places[0]


def test_the_examples_of_the_help_are_commands_there_are() -> None:
    names = {(name,) for name in COMMANDS}
    for name in COMMANDS:
        page = cleanweb(name, "--help")[1]
        examples = [line.split() for line in page.splitlines() if line.startswith("    cleanweb ")]
        assert {tuple(words[1:2]) for words in examples} <= names
        known = {word.rstrip(",") for word in page.split() if word.startswith("--")}
        assert {word for words in examples for word in words if word.startswith("--")} <= known


def test_help_is_quick() -> None:
    words = [sys.executable, "-m", "cleanweb", "--help"]
    seconds = []
    for _ in range(5):  # of the processor: others may be using it, too
        before = os.times()
        subprocess.run(words, capture_output=True, check=True)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(seconds) < 0.4


def test_completion_names_commands_options_and_values() -> None:
    def complete(typed: str) -> str:
        told = {"_CLEANWEB_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        return CliRunner().invoke(app, [], env=told, prog_name="cleanweb").output

    assert "export" in complete("cleanweb exp").split()
    assert "--backbone" in complete("cleanweb fit --back").split()
    assert "paper-ci" in complete("cleanweb fit --recipe paper-").split()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("exprot",), "export"),
        (("fit", "x", "--bakcbone", "cnn5"), "--backbone"),
        (("fit", "x", "--tune", "haed"), "head"),
        (("fit", "x", "--epochs", "many"), "--epochs"),
        (("sql",), "QUERY"),
    ],
)
def test_a_wrong_command_is_told_in_plain_words(words: tuple[str, ...], said: str) -> None:
    code, out, err = cleanweb(*words)
    assert (code, out) == (2, "")
    assert said in err
    assert not set(err) & set("╭│╰\x1b")


# --- progress -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step_s", "told"), [(0.001, [1, 100]), (0.2, [1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100])])
def test_lines_where_no_one_watches(
    step_s: float, told: list[int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step and the last, and every tenth where that takes more than a moment."""
    clock = iter(step_s * i for i in range(200))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    with terminal.showing_progress(quiet=False) as progress:
        for done in range(1, 101):
            progress("features", done, 100)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [int(line.split()[1]) for line in lines] == told
    assert lines[0] == "features: 1 of 100"
    assert lines[-1] == f"features: 100 of 100, {1 / step_s:,.1f}/s, 0 s left"


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    with terminal.showing_progress(quiet=False) as progress:
        progress("train", 1, 2)
    assert capsys.readouterr().err == "train: 1 of 2\n"


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_bar_on_a_terminal(environment: dict[str, str], coloured: bool) -> None:
    import pty

    code = ("from cleanweb.terminal import showing_progress\n"
            "with showing_progress(False) as p: [p('train', i, 9) for i in range(1, 10)]")  # fmt: skip
    ours, theirs = pty.openpty()
    clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True,
                   env=clean | {"TERM": "xterm-256color", "COLUMNS": "80"} | environment)  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while more := os.read(ours, 65536):
            shown += more
    except OSError:  # Linux tells the end of a terminal so
        pass
    os.close(ours)
    assert b"9/9" in shown
    assert (b"\x1b[38;" in shown or b"\x1b[3" in shown) == coloured


def test_rates_in_words() -> None:
    rates = {None: "", 0: "", 0.04: "25.0 s each", 1: "1.0/s", 1234.56: "1,234.6/s"}
    assert {speed: terminal.rate(speed) for speed in rates} == rates


# --- logging --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("verbosity", "said"), [(0, []), (1, ["why"]), (2, ["how", "of others", "why"])])
def test_verbosity(verbosity: int, said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    terminal.log_to_stderr(verbosity)
    try:
        logging.getLogger("cleanweb.somewhere").info("why")
        logging.getLogger("cleanweb.somewhere").debug("how")
        logging.getLogger("elsewhere").info("of others")
    finally:
        terminal.log_to_stderr(0)
    out, err = capsys.readouterr()
    assert (out, sorted(line.split(": ")[1] for line in err.splitlines())) == ("", said)
