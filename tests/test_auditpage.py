"""The page of an audit: blind, guarded, and what is clicked is what is stored."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cleanweb import audit, manifest, reviews
from cleanweb.audit import Audit, draw
from cleanweb.audit.statement import CLASS, NONE, UNSURE

pytest.importorskip("starlette", reason="pip install 'cleanweb-data[review]'")
pytest.importorskip("httpx", reason="what Starlette's test client needs")

from starlette.testclient import TestClient

from cleanweb.audit import page

N = 12


@pytest.fixture
def drawn(run: Path, tmp_path: Path) -> tuple[Path, Audit]:
    own = shutil.copytree(run, tmp_path / "own")
    return own, draw.draw(own, N)


@pytest.fixture
def client(drawn: tuple[Path, Audit]) -> TestClient:
    return entered(page.application(page.Asking(drawn[0], 1, "Ada"), "token", 80))


def entered(app: object) -> TestClient:
    """A client that has come in with the token."""
    client = TestClient(app, base_url="http://localhost:80", headers={"host": "localhost:80"})
    assert client.get("/?token=token").status_code == 200
    return client


def post(client: TestClient, *answers: object, **headers: str) -> tuple[int, dict]:
    body = {"answers": answers}
    head = {"origin": "http://localhost:80", "content-type": "application/json"} | headers
    reply = client.post("/api/answer", content=json.dumps(body), headers=head)
    return reply.status_code, reply.json() if reply.headers["content-type"] == "application/json" else {}


# --- blind ----------------------------------------------------------------------------------------------------------


def test_what_the_page_is_told_betrays_no_verdict(client: TestClient, drawn: tuple[Path, Audit]) -> None:
    run, found = drawn
    told = client.get("/api/audit").json()
    assert told.keys() == {"run", "audit_id", "classes", "pictures"}
    assert len(told["pictures"]) == len(found.rows)
    for picture, row in zip(told["pictures"], found.rows.itertuples(), strict=True):
        assert picture == {"first": row.offered_first, "second": row.offered_second, "answer": None, "label": None}
    text = client.get("/api/audit").text  # a folder's name is the label
    assert not any(json.dumps(path)[1:-1] in text for path in found.rows["path"])
    assert run.name in text


def test_pictures_go_by_their_place_and_say_nothing_else(client: TestClient, drawn: tuple[Path, Audit]) -> None:
    reply = client.get("/picture?position=0")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/jpeg")
    path = drawn[1].rows["path"].iloc[0]
    assert path.encode() not in reply.content
    assert not any(path in value for value in reply.headers.values())
    for asked in ("position=999", "position=-1", "position=x", "position=0&size=huge", "id=red/00.png", ""):
        assert client.get(f"/picture?{asked}").status_code == 404


def test_a_picture_that_is_gone_is_told(drawn: tuple[Path, Audit]) -> None:
    asking = page.Asking(drawn[0], 1, "Ada")
    asking.files[0] = ["/no/such/file.png", None, "ok", None]
    reply = entered(page.application(asking, "token", 80)).get("/picture?position=0")
    assert reply.status_code == 404
    assert "cannot be read" in reply.json()["error"]


# --- guarded --------------------------------------------------------------------------------------------------------


def test_nobody_else_may_look_or_answer(client: TestClient, drawn: tuple[Path, Audit]) -> None:
    body = {"position": 0, "answer": NONE}
    assert post(client, body, origin="http://evil.example")[0] == 403
    assert post(client, body, **{"content-type": "text/plain"})[0] == 415
    assert client.get("/api/audit", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    client.cookies.clear()
    for address in ("/", "/api/audit", "/api/statement", "/picture?position=0", "/static/audit.js"):
        assert client.get(address).status_code == 401
    assert post(client, body)[0] == 401
    assert audit.state(drawn[0], 1).unanswered == len(drawn[1].rows)


@pytest.mark.parametrize("body", [
    {}, {"position": 99, "answer": NONE}, {"position": True, "answer": NONE}, {"position": 0, "answer": "clean"}, [],
    {"position": 0, "answer": CLASS}, {"position": 0, "answer": CLASS, "label": "whale"}, "none",
    {"position": 0, "answer": NONE, "label": "red"}, {"position": 0, "answer": CLASS, "label": 3},
])  # fmt: skip
def test_what_is_no_answer_changes_nothing(client: TestClient, drawn: tuple[Path, Audit], body: object) -> None:
    code, told = post(client, body)
    assert code == 400
    assert told["error"]
    assert post(client, {"position": 1, "answer": NONE}, body)[0] == 400  # all or nothing
    assert audit.state(drawn[0], 1).unanswered == len(drawn[1].rows)
    assert not reviews.current(drawn[0])


def test_answers_are_stored_replaced_and_taken_back(client: TestClient, drawn: tuple[Path, Audit]) -> None:
    run, found = drawn
    before = manifest.read(run, "images")
    for kind, label in ((CLASS, "red"), (CLASS, "green"), (NONE, None), (UNSURE, None), (None, None)):
        assert post(client, {"position": 3, "answer": kind, "label": label})[0] == 200
        row = audit.state(run, 1).rows.iloc[3]
        assert (row["answer"] if isinstance(row["answer"], str) else None) == kind
        assert client.get("/api/audit").json()["pictures"][3]["label"] == label
        assert (found.rows["sample_id"].iloc[3] in reviews.current(run)) == (kind in (CLASS, NONE))
    assert manifest.read(run, "images").equals(before)
    told = client.get("/api/statement").json()
    assert told["findings"][0]["value"] is None


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture
def served(run: Path, tmp_path: Path) -> Iterator[tuple[Path, str, subprocess.Popen]]:
    """The command, as a user gives it: the run folder, the address, the process."""
    own = shutil.copytree(run, tmp_path / "own")
    words = [sys.executable, "-m", "cleanweb", "audit", "--n", N, "--run", own, "--no-browser", "--who", "Ada"]
    process = subprocess.Popen([*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        yield own, process.stdout.readline().strip(), process
        process.kill()


@pytest.mark.slow
def test_a_person_judges_with_keys_and_is_told(served: tuple[Path, str, subprocess.Popen]) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="a browser is driven by Playwright")
    run, address, process = served
    complaints: list[str] = []
    with playwright.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        view = browser.new_page()
        view.on("console", lambda message: complaints.append(message.text))
        view.on("pageerror", lambda error: complaints.append(str(error)))
        view.goto(address)
        assert "token" not in view.url
        view.wait_for_selector("#asking:not([hidden])")
        view.locator("#picture").evaluate("picture => picture.decode()")  # fails where it is none
        first = view.inner_text("#first bdi")
        view.keyboard.press("1")
        view.keyboard.press("2")
        third_of = {"red", "green", "blue"} - {view.inner_text("#first bdi"), view.inner_text("#second bdi")}
        view.keyboard.press("3")
        view.keyboard.type(min(third_of)[:3])
        view.keyboard.press("Enter")
        view.keyboard.press("0")
        view.keyboard.press("?")
        assert "picture 6 of" in view.inner_text("#counts")
        view.keyboard.press("u")  # takes the last one back, and shows it again
        assert "picture 5 of" in view.inner_text("#counts")
        assert "4 answered" in view.inner_text("#counts")
        view.keyboard.press("ArrowLeft")
        assert view.get_attribute("#none", "aria-pressed") == "true"
        view.keyboard.press("?")  # another answer in its place
        view.wait_for_selector("#progress[aria-busy=false]")
        view.reload()  # what was answered is known
        view.wait_for_selector("#asking:not([hidden])")
        assert "picture 5 of" in view.inner_text("#counts")
        left = int(view.inner_text("#counts").split(" of ")[1].split(",")[0]) - 4
        for _ in range(left):
            view.click("#first")
        view.wait_for_selector("#told:not([hidden])")
        assert "Tagged clean: the given label is right" in view.inner_text("#findings")
        browser.close()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    found = audit.latest(run)
    assert found.rows["shown_label"].iloc[:3].tolist() == [first, found.rows["offered_second"].iloc[1], min(third_of)]
    assert found.rows["answer"].iloc[3] == UNSURE
    assert (found.unanswered, found.count(UNSURE)) == (0, 1)
    assert set(found.rows["who"]) == {"Ada"}
    assert out.splitlines() == found.lines()
    assert 'id="audit"' in (run / "report.html").read_text(encoding="utf-8")
    assert process.returncode == 0
    assert not complaints
