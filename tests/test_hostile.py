"""A crawl made to do harm: in its names, labels, metadata and files. Nothing is run, sent, steered or shown as code."""

import ast
import csv
import io
import json
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cleanweb import checkpoint, methods, opening, readers, report
from cleanweb.backbone import Backbone
from cleanweb.classifier import load_classifier
from cleanweb.errors import CleanwebError, MachineError, RunError
from cleanweb.network import Network
from cleanweb.runfolder import RunFolder
from cleanweb.settings import FORMATS, RECIPES
from cleanweb.terminal import plain
from cleanweb.train import train
from cleanweb.visible import visible
from tests.test_cli import cleanweb

HOUSE = Path(__file__).parent.parent / "cleanweb"

HTML = [
    "<script>harm()</script>",
    "</script><script>harm()</script>",
    '"><img src=x onerror=harm()>',
    "'onmouseover='harm()",
    "<svg onload=harm()>",
    "<iframe src=javascript:harm()>",
    "javascript:harm()",
    "{{ harm() }}{% raw %}",
    "</style></title></textarea></td><script>harm()</script>",
    "<!--<script>harm()//-->",
    "&lt;script&gt;harm()",
    "＜script＞harm()",
    "<a href='data:text/html,<script>harm()</script>'>x</a>",
    "<meta http-equiv=refresh content='0;url=https://example.org'>",
    "<base href=https://example.org>",
    "<link rel=stylesheet href=https://example.org/x.css>",
    "expression(harm())/*",
    "${harm()}`harm()`",
]
STEERING = [
    "\x1b[2J\x1b[1;1Hgone",
    "\x1b]0;a title\x07",
    "\x1b]8;;https://example.org\x07click\x1b]8;;\x07",
    "\x9b31mred",
    "a\rb\x08c\x7f",
    "\x1bP+q544e\x1b\\",
    "bell\x07",
    "\u202egnp.exe",
    "\u2066hidden\u2069",
    "two\nlines\nError: all is lost",
    "zero\u200bwidth\ufeff",
    "\u2028\u2029\x85",
]
LABELS = [HTML[0], STEERING[0], f"{HTML[2]}\n{STEERING[1]}"]


def draw(folder: Path) -> Path:
    """Three classes with hostile labels; pictures, copies and broken files with hostile names; EXIF; a table."""
    rng, rows = np.random.default_rng(0), []
    folder.mkdir()
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = HTML[2] + STEERING[0]
    for i, payload in enumerate([*HTML, *STEERING, *(f"plain {i}" for i in range(18))]):
        colour = ((200, 40, 40), (40, 190, 60), (50, 60, 210))[i % 3]
        pixels = np.clip(rng.normal(colour, 40, (24, 24, 3)), 0, 255).astype(np.uint8)
        name = payload.replace("/", "⁄") + f"{i}.png"
        Image.fromarray(pixels).save(folder / name, exif=exif)
        rows.append((name, LABELS[i % 3] if i % 11 else LABELS[(i + 1) % 3]))
    pixmap = b'/* XPM */\n"9 9 1 1",\n"a c \x1b[2J<script>",\n'
    for name, content in ((STEERING[0], b"\xff\xd8\xff" + b"\x1b[2J" * 20), (STEERING[1], pixmap)):
        name = f"broken {name}.jpg"
        (folder / name).write_bytes(content)
        rows.append((name, LABELS[0]))
    copy = f"copy {HTML[4]} {STEERING[7]}.png"
    shutil.copy(folder / rows[0][0], folder / copy)
    rows += [(copy, LABELS[1]), (f"missing {STEERING[0]}{HTML[0]}", LABELS[2]), ("../../" + STEERING[0], LABELS[0])]
    table = folder.parent / "labels.csv"
    with table.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("path", "label"), *rows])
    return table


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """(crawl, run, what fit said)."""
    if sys.platform == "win32":
        pytest.skip("Windows allows no such file names")
    folder = tmp_path_factory.mktemp("hostile")
    table = draw(folder / "crawl")
    code, out, err = cleanweb("fit", folder / "crawl", "--labels", table, "--out", folder / "run", "--backbone", "cnn5",
                              "--epochs", 2, "--workers", 0, "--device", "cpu", "-v")  # fmt: skip
    assert code == 0, err
    return folder / "crawl", folder / "run", out + err


# --- the terminal ---------------------------------------------------------------------------------------------------


def steers(text: str) -> list[str]:
    """The characters that a terminal obeys instead of showing them."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") and c not in "\n\t\u200c\u200d"]


def test_the_harness_sees_what_steers() -> None:
    assert all(steers(payload) or "\n" in payload for payload in STEERING)


# Not a sequence that starts with ESC [: such a one click takes out where no terminal is, as in tests.
COMMANDS = [
    ["retag"],
    ["retag", "--keep", "0.8"],
    ["report"],
    ["export", "--only", "clean", "--out", "TMP/\x1b]0;x\x07.csv"],
    ["export", "--format", "imagefolder", "--out", "TMP/tree"],
    ["predict", "CRAWL"],
    ["predict", "CRAWL/nowhere\x1b]0;x\x07.png"],
    ["sql", "SELECT * FROM images"],
    ["sql", "SELECT * FROM classes"],
    ["sql", "SELECT * FROM unusable"],
    ["sql", "PIVOT (SELECT given_label, verdict FROM images) ON given_label USING count(*)"],
    ["sql", 'SELECT 1 AS "\x1b]0;x\x07"'],
    ["sql", "SELECT [given_label] AS labels, {'a': path} AS p FROM images"],
    ["sql", "SELECT path::INTEGER FROM images"],
    ["sql", "SELECT '\x1b]0;x\x07'::INTEGER"],
    ["export", "--where", "path = '\x1b]0;x\x07' AND nope", "--out", "TMP/x.csv"],
    ["fit", "CRAWL"],
    ["fit", "nowhere\x1b]0;x\x07"],
    ["fit", "TMP/bad.csv"],
    ["retag", "--trusted", "TMP/bad.csv"],
    ["retag", "--trusted", "TMP/strange.csv"],
    ["fit", "TMP/columns.csv"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words).encode("unicode_escape").decode()[:60])
def test_no_command_steers_the_terminal(hostile: tuple[Path, Path, str], words: list[str], tmp_path: Path) -> None:
    crawl, run, _ = hostile
    (tmp_path / "bad.csv").write_text(f'path,label\n\x1b]0;x\x07,{STEERING[1]}\nx,"y\n', encoding="utf-8")
    known = f"{HTML[0]}0.png".replace("/", "⁄")
    (tmp_path / "strange.csv").write_text(f'path,label\n"{known}",\x1b]0;x\x07\n', encoding="utf-8")
    (tmp_path / "columns.csv").write_text("\x1b]0;x\x07path,other\nx,y\n", encoding="utf-8")
    filled = [word.replace("TMP", str(tmp_path)).replace("CRAWL", str(crawl)) for word in words]
    option = ["--out", tmp_path / "other"] if words[0] == "fit" else ["--run", run]
    _, out, err = cleanweb(*filled, *option)
    assert out + err
    assert not steers(out + err)


def test_fit_steers_no_terminal_and_forges_no_line(hostile: tuple[Path, Path, str]) -> None:
    said = hostile[2]
    assert "\\x1b[2J" in said  # shown, not obeyed
    assert not steers(said)
    assert not any(line.startswith("Error") for line in said.splitlines())


def test_what_makes_letters_is_left_alone() -> None:
    assert plain("ünï 🧑‍🌾 می‌خواهم\n\t") == "ünï 🧑‍🌾 می‌خواهم\n\t"
    assert visible("a\nb\tc\x1b\u202e\U000e0001") == r"a\nb\tc\x1b\u202e\U000e0001"
    assert plain("\udcff") == r"\udcff"


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not text")
def test_names_that_are_not_text_can_be_predicted(run: Path, crawl: Path, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    shutil.copy(crawl / "red" / "00.png", name)
    for option in ("--json", None):
        code, out, _ = cleanweb("predict", name, "--run", run, *([option] if option else []))
        assert code == 0
        assert "caf" in out.encode().decode()


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not text")
def test_names_that_are_not_text_have_pictures(crawl: Path, tmp_path: Path) -> None:
    from cleanweb.review.pictures import Pictures

    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    shutil.copy(crawl / "red" / "00.png", name)
    stored = readers.printable(name)  # as a manifest has it
    assert opening.read_bytes(stored, None) == (crawl / "red" / "00.png").read_bytes()
    tag = Pictures.tag(stored, None, "ok", None, "small")
    assert Pictures().jpeg(tag, stored, None, "small").startswith(b"\xff\xd8")


def _is_safe(said: ast.expr) -> bool:
    """A text of our own, or one that has gone through `plain`, `visible` or JSON; in an f-string each part."""
    match said:
        case ast.Constant():
            return True
        case ast.Call(func=ast.Name(id="plain" | "visible" | "len")) | ast.Call(func=ast.Attribute(attr="dumps")):
            return True
        case ast.IfExp(body=body, orelse=orelse):
            return _is_safe(body) and _is_safe(orelse)
        case ast.JoinedStr(values=values):
            return all(map(_is_safe, values))
        case ast.FormattedValue(value=value, format_spec=spec):
            number = spec is not None and re.search("[,.]", ast.unparse(spec))
            return bool(number) or _is_safe(value) or ast.unparse(value) == "__version__"
    return False


def test_whatever_is_printed_goes_through_plain() -> None:
    files = [HOUSE / "cli.py", *sorted((HOUSE / "commands").glob("*.py")), HOUSE / "bench" / "commands.py"]
    unsafe, found = [], 0
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("typer.echo", "typer.secho", "print"):
                found += 1
                if not _is_safe(node.args[0]):
                    unsafe.append(f"{file.name}:{node.lineno}: {ast.unparse(node)}")
    assert not unsafe, "put plain(…) around it"
    assert found > 10


# --- what comes between ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="links")
@pytest.mark.parametrize("allowed", [False, True])
def test_a_link_that_takes_the_place_of_an_image_is_not_exported(crawl: Path, tmp_path: Path, allowed: bool) -> None:
    """After `fit` a file, or its folder, may become a link to what nobody meant to hand over."""
    own, secret = tmp_path / "crawl", tmp_path / "secret"
    shutil.copytree(crawl, own)
    secret.mkdir()
    (secret / "03.png").write_bytes(b"a key")
    words = ["--allow-outside"] * allowed
    fit = ("fit", own, "--out", tmp_path / "run", "--backbone", "cnn5", "--epochs", 1, "--set", "rounds=1", *words)
    assert cleanweb(*fit, "--workers", 0, "--device", "cpu")[0] == 0
    (own / "red" / "03.png").unlink()
    (own / "red" / "03.png").symlink_to(secret / "03.png")
    shutil.rmtree(own / "green")
    (own / "green").symlink_to(secret, target_is_directory=True)
    for name in ("imagefolder", "webdataset"):
        out = tmp_path / name
        assert cleanweb("export", "--run", tmp_path / "run", "--format", name, "--out", out)[0] == 0
        assert any(b"a key" in file.read_bytes() for file in out.rglob("*") if file.is_file()) == allowed


# --- the report -----------------------------------------------------------------------------------------------------


@contextmanager
def watched_page() -> Iterator[tuple[Any, list[str], list[str]]]:
    """A browser's page that notes what it asks for and what it says, scripts' errors among it."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium here")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    asked, said = list[str](), list[str]()
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.add_init_script("window.harmed = 0; window.harm = () => { window.harmed += 1 }; window.alert = harm")
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        yield page, asked, said
        browser.close()


def test_the_report_runs_nothing_and_asks_for_nothing(hostile: tuple[Path, Path, str], tmp_path: Path) -> None:
    page_file = report.write(hostile[1], tmp_path / "report.html")
    dialogs = []
    with watched_page() as (page, asked, said):
        page.on("dialog", lambda dialog: dialogs.append(dialog.dismiss()))
        page.goto(page_file.as_uri())
        for node in page.query_selector_all("details:not([open]) > summary"):
            node.click()
        for node in page.query_selector_all("td, th, figure, img, a, summary")[:300]:
            node.dispatch_event("mouseover")
            node.dispatch_event("focus")
        page.wait_for_timeout(300)
        text = page.inner_text("body")
        facts = page.evaluate(
            "() => ({harmed: window.harmed, url: location.href, foreign: document.querySelectorAll("
            "'iframe, object, embed, base, link, form, svg [onload], [onerror], [onmouseover], [onload]').length,"
            "scripts: [...document.scripts].map(s => s.textContent).filter(t => t.includes('harm')).length,"
            "links: [...document.querySelectorAll('[href],[src]')].map(e => e.getAttribute('href') ||"
            "e.getAttribute('src')).filter(u => !/^(#|data:image\\/jpeg;base64,)/.test(u))})"
        )
    assert facts == {"harmed": 0, "url": page_file.as_uri(), "foreign": 0, "scripts": 0, "links": []}
    assert not dialogs
    assert not said
    assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]
    assert HTML[0] in text  # it is there, as text
    assert not [c for c in steers(text) if c not in "\u200b\ufeff"]


def test_the_page_of_an_audit_runs_nothing_and_asks_nobody(hostile: tuple[Path, Path, str], tmp_path: Path) -> None:
    own = shutil.copytree(hostile[1], tmp_path / "run")
    command = [sys.executable, "-m", "cleanweb", "audit", "--run", str(own), "--no-browser"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=HOUSE.parent) as process,
        watched_page() as (page, asked, said),
    ):
        address = process.stdout.readline().strip()
        page.goto(address)
        page.wait_for_selector("#asking:not([hidden])")
        text = ""
        for key in "12" * 8:
            text += page.inner_text("body")
            page.keyboard.press(key)
        page.keyboard.press("3")  # the list of classes
        text += page.inner_text("body")
        page.wait_for_timeout(300)
        facts = page.evaluate(
            "() => ({harmed: window.harmed, foreign: document.querySelectorAll('iframe, object, embed, base, svg, "
            "[onerror], [onmouseover], [onload]').length, scripts: [...document.scripts].filter(s => !s.src).length})"
        )
        process.kill()
    assert facts == {"harmed": 0, "foreign": 0, "scripts": 0}
    assert not said
    assert all(url.startswith(address.split("?")[0]) for url in asked)
    assert HTML[0] in text  # it is there, as text
    assert not [c for c in steers(text) if c not in "\u200b\ufeff"]


# --- no pickle is ever loaded ---------------------------------------------------------------------------------------


class Harm:
    """What a pickle can do: on loading, it makes a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple:
        return open, (os.fspath(self.file), "w")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that only harm would make; and a pickle does it."""
    file = tmp_path / "harmed"
    pickle.loads(pickle.dumps(Harm(file))).close()
    assert file.exists()
    file.unlink()
    return file


def learner() -> methods.Method:
    recipe = RECIPES["auto"]["small"]
    return methods.load("standard", "auto")(Network(Backbone("cnn5", False).build(2), False), 8, 2, recipe, 1)


@pytest.mark.parametrize("how", ["torch", "torch, old format", "pickle"])
def test_a_hostile_checkpoint_is_refused(tmp_path: Path, mark: Path, how: str) -> None:
    file, stream = tmp_path / "fold-0.pt", io.BytesIO()
    state = {"method": Harm(mark), "optimiser": {}, "records": []}
    if how == "pickle":
        stream.write(pickle.dumps(state))
    else:
        torch.save(state, stream, _use_new_zipfile_serialization=how == "torch")
    file.write_bytes(stream.getvalue())
    assert train(learner(), lambda _: iter(()), RECIPES["auto"]["small"], 1, file)[0].epoch == 1  # begun anew
    checkpoint.write(file, lambda into: into.write(stream.getbuffer()))  # with a check sum that is right
    with pytest.raises(RunError, match="--fresh"):
        train(learner(), lambda _: iter(()), RECIPES["auto"]["small"], 1, file)
    assert not mark.exists()


def test_hostile_arrays_are_refused(tmp_path: Path, mark: Path) -> None:
    arrays = {"probs": np.array([Harm(mark)], dtype=object)}
    for fill in (lambda stream: np.savez(stream, **arrays), lambda stream: pickle.dump(Harm(mark), stream)):
        checkpoint.write(tmp_path / "x.npz", fill)
        with pytest.raises(RunError, match="--fresh"):
            checkpoint.read_arrays(tmp_path / "x.npz")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "model.pt", "x.bin", "open_clip_pytorch_model.bin"])
def test_a_hostile_classifier_or_backbone_is_refused(
    run: Path, crawl: Path, tmp_path: Path, mark: Path, name: str
) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own)
    torch.save({"fc.weight": Harm(mark)}, own / "classifier" / name)
    assert load_classifier(own / "classifier")[1]  # the safe file beside it is what counts
    (own / "classifier" / "model.safetensors").unlink()
    with pytest.raises(MachineError, match="can run code"):
        load_classifier(own / "classifier")
    code, _, err = cleanweb("predict", own / "x.png", "--run", own)
    assert (code, "can run code" in err) == (5, True)
    for option in (["--backbone", f"local-dir:{own / 'classifier'}"], ["--backbone", "cnn5", "--weights",
                                                                      own / "classifier" / name]):  # fmt: skip
        code, _, err = cleanweb("fit", crawl, "--out", tmp_path / "new", *option)
        assert code in (2, 5)
        assert "can run code" in err
    shutil.copy(own / "classifier" / name, own / "classifier" / "model.safetensors")  # a pickle under a safe name
    with pytest.raises(CleanwebError):
        load_classifier(own / "classifier")
    assert not mark.exists()


def test_hostile_scores_and_pixels_are_refused(run: Path, tmp_path: Path, mark: Path) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own)
    with np.load(own / "scores.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    np.savez(own / "scores.npz", **arrays | {"probs": np.array([Harm(mark)], dtype=object)})
    code, _, err = cleanweb("retag", "--run", own)
    assert (code, "damaged" in err) == (6, True)
    (own / "scores.npz").write_bytes(pickle.dumps(Harm(mark)))
    with pytest.raises(RunError):
        RunFolder(own).load_scores()
    assert not mark.exists()


def test_nothing_in_the_house_could_load_one() -> None:
    forbidden = {"eval", "exec", "compile", "pickle.load", "pickle.loads", "os.system", "os.popen", "yaml.load",
                 "marshal.loads", "shelve.open", "joblib.load", "pd.read_pickle"}  # fmt: skip
    for file in HOUSE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None)]
                assert not {"pickle", "marshal", "shelve", "joblib", "dill"} & set(names), file
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert name not in forbidden, f"{file}:{node.lineno}"
            assert name != "torch.load" or options.get("weights_only") == "True", f"{file}:{node.lineno}"
            assert name != "np.load" or options.get("allow_pickle") == "False", f"{file}:{node.lineno}"
            assert options.get("shell") != "True", f"{file}:{node.lineno}"


# --- the network ----------------------------------------------------------------------------------------------------

NO_NETWORK = """
import os, sys

def refuse(event, args):
    if event == "socket.bind" and args[1][0] == "127.0.0.1":
        return
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
                 "socket.gethostbyname", "socket.gethostbyaddr", "urllib.Request", "webbrowser.open"):
        with open(os.environ["NETWORK_ASKED"], "a") as file:
            print(event, args, file=file)
        raise OSError("the network is forbidden")

sys.addaudithook(refuse)
"""


ALL_COMMANDS = """
import json, sys
from typer.testing import CliRunner
from cleanweb.cli import app

if __name__ == "__main__":
    for words in json.load(sys.stdin):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0 or words == ["doctor"], (words, done.output, done.exception)
"""


def test_no_command_asks_the_network(tmp_path: Path, crawl: Path) -> None:
    """Not on a run with cnn5, which needs no weights: in no process, for nothing, telemetry included."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_NETWORK)
    (tmp_path / "all.py").write_text(ALL_COMMANDS)
    asked, run = tmp_path / "asked", ["--run", str(tmp_path / "run")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(HOUSE.parent)]),
                    "NETWORK_ASKED": str(asked), "OMP_NUM_THREADS": "1"}  # fmt: skip

    def python(*words: object, given: str = "") -> subprocess.CompletedProcess:
        command = [sys.executable, *map(str, words)]
        return subprocess.run(command, env=environment, cwd=tmp_path, input=given, capture_output=True, text=True,
                              check=False)  # fmt: skip

    assert "forbidden" in python("-c", "import socket; socket.create_connection(('127.0.0.1', 9))").stderr
    assert asked.exists()
    asked.unlink()
    fit = ["fit", str(crawl), "--out", run[1], "--backbone", "cnn5", "--epochs", "2", "--workers", "1"]
    others = [["retag"], ["report"], ["sql", "SELECT 1"], ["predict", str(crawl / "red" / "00.png")],
              ["audit", "--sheet", "sheet.csv"], ["audit", "--answers", "sheet.csv"], ["audit", "--show"],
              ["export-model", "--format", "timm", "--out", "model"]]  # fmt: skip
    others += [["export", "--format", name, "--out", f"export-{name}"] for name in FORMATS]
    for i in range(6):
        shutil.copytree(crawl / "green", tmp_path / "source" / f"class {i}")
    bench = [["bench", "worlds"], ["bench", "tables"], ["bench", "make", "source", "few-classes", "--out", "world"]]
    done = python("all.py", given=json.dumps([fit, *([*words, *run] for words in others), ["doctor"], *bench]))
    assert done.returncode == 0, done.stderr
    pages = [["review"], ["audit"]]
    for words in pages:  # these serve, on this machine alone
        command = [sys.executable, "-m", "cleanweb", *words, *run, "--no-browser"]
        with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
            assert "http://127.0.0.1:" in process.stdout.readline()
            process.kill()
    assert not asked.exists(), asked.read_text()


def test_a_hostile_configuration_of_a_classifier_asks_nobody(run: Path, tmp_path: Path, monkeypatch) -> None:
    own = tmp_path / "classifier"
    shutil.copytree(run / "classifier", own)
    config = json.loads((own / "config.json").read_text(encoding="utf-8"))
    config["pretrained_cfg"] |= {"url": "https://example.org/x.pth", "hf_hub_id": "nobody/nothing", "source": "hf-hub",
                                 "custom_load": True, "file": "/etc/passwd"}  # fmt: skip
    (own / "config.json").write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it asked the network"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("it asked the network"))
    model, names = load_classifier(own)
    trusted, _ = load_classifier(run / "classifier")
    assert names == ["blue", "green", "red"]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trusted.parameters(), strict=True))
