"""The review page's server: whom it talks to, what it answers, and that decisions are where they belong."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("starlette", reason="needs the extra [review]")
pytest.importorskip("httpx", reason="the test client needs httpx")

from starlette.testclient import TestClient

from cleanweb import manifest, reviews
from cleanweb.retagging import retag
from cleanweb.review.app import application
from cleanweb.review.guard import MOST_BYTES
from cleanweb.review.store import MOST_AT_ONCE, SORTS, Question, Store

TOKEN, HERE = "a-token", "http://127.0.0.1:8000"


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    with manifest.changing(tmp_path / "run") as con:
        con.execute("UPDATE images SET needs_review = true WHERE sample_id IN (SELECT sample_id FROM images LIMIT 3)")
    return tmp_path / "run"


@pytest.fixture
def store(own: Path) -> Store:
    return Store(own, "ada")


@pytest.fixture
def stranger(store: Store) -> Iterator[TestClient]:
    with TestClient(application(store, TOKEN, 8000), base_url=HERE, follow_redirects=False) as client:
        yield client


@pytest.fixture
def client(stranger: TestClient) -> TestClient:
    assert stranger.get("/", params={"token": TOKEN}).status_code == 303
    return stranger


def post(client: TestClient, name: str, **body: object):
    return client.post(f"/api/{name}", json=body, headers={"Origin": HERE})


def page(client: TestClient, begin: int = 0, end: int = 100, **question: object) -> list[dict]:
    answer = post(client, "page", question=question, begin=begin, end=end)
    assert answer.status_code == 200, answer.text
    return answer.json()["rows"]


def decide(client: TestClient, action: str, rows: list[dict], label: str | None = None) -> dict:
    seen = {row["sample_id"]: row["mark"] for row in rows}
    answer = post(client, "decide", action=action, ids=list(seen), seen=seen, label=label)
    assert answer.status_code == 200, answer.text
    return answer.json()


def rows(run: Path, sql: str) -> list[tuple]:
    return list(manifest.query(run, sql)[1])


# --- who may come in ------------------------------------------------------------------------------------------------

EVERYTHING = ["/", "/static/review.js", "/api/about", "/api/stamp", "/api/history", "/picture?id=red%2F02.png"]


@pytest.mark.parametrize("path", EVERYTHING)
def test_strangers_get_nothing(stranger, path):
    assert stranger.get(path).status_code == 401
    assert stranger.get(path, headers={"Cookie": "cleanweb-review-8000=wrong"}).status_code == 401
    assert stranger.get(path, headers={"Cookie": f"cleanweb-review-8001={TOKEN}"}).status_code == 401
    assert stranger.get(path, params={"token": "wrong"}).status_code == 401


def test_the_token_becomes_a_cookie_and_leaves_the_address(stranger):
    answer = stranger.get("/", params={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert stranger.get("/").status_code == 200
    assert TOKEN not in stranger.get("/").text


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1", "127.0.0.1:9", "localhost.evil:8000"]
)
def test_another_host_is_refused_even_with_the_cookie(client, host):
    for path in (*EVERYTHING, f"/?token={TOKEN}"):
        assert client.get(path, headers={"Host": host}).status_code == 403


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1:9", "https://127.0.0.1:8000"]
)
def test_another_origin_cannot_write(client, own, origin):
    headers = {} if origin is None else {"Origin": origin}
    [row] = page(client, end=1)
    body = {"action": "ood", "ids": [row["sample_id"]], "seen": {row["sample_id"]: row["mark"]}}
    assert client.post("/api/decide", json=body, headers=headers).status_code == 403
    assert rows(own, "SELECT * FROM reviews") == []


@pytest.mark.parametrize("site", ["cross-site", "same-site"])  # same-site: another port of this machine
def test_another_page_cannot_read(client, site):
    for path in EVERYTHING:
        assert client.get(path, headers={"Sec-Fetch-Site": site}).status_code == 403


def test_only_json_of_some_size_is_taken(client):
    send = {"Origin": HERE}
    assert client.post("/api/undo", content="{}", headers=send | {"Content-Type": "text/plain"}).status_code == 415
    long = b'"' + b"x" * MOST_BYTES + b'"'
    assert (
        client.post("/api/undo", content=long, headers=send | {"Content-Type": "application/json"}).status_code == 413
    )
    stream = client.post("/api/undo", content=iter([b"{}"]), headers=send | {"Content-Type": "application/json"})
    assert stream.status_code == 413
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert client.request(method, "/api/undo").status_code == 405


def test_every_answer_is_guarded(client):
    answers = [client.get(path) for path in EVERYTHING] + [client.get("/nothing"), post(client, "page")]
    for answer in (*answers, client.get("/", headers={"Host": "evil"})):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers


# --- looking --------------------------------------------------------------------------------------------------------


def test_pages_are_the_rows_in_order(client, own):
    [(n,)] = rows(own, "SELECT count(*) FROM images WHERE duplicate_of IS NULL")
    assert post(client, "count", question={}).json()["count"] == n
    whole = page(client)
    assert whole == page(client, 0, 20) + page(client, 20, n)
    assert [row["confidence"] for row in whole if row["confidence"] is not None] == sorted(
        row["confidence"] for row in whole if row["confidence"] is not None)  # fmt: skip
    assert page(client, 1000, 1100) == []


@pytest.mark.parametrize(("question", "condition"), [
    ({"verdicts": ["clean", "ood"]}, "verdict IN ('clean', 'ood') AND duplicate_of IS NULL"),
    ({"labels": ["red"]}, "(given_label = 'red' OR final_label = 'red') AND duplicate_of IS NULL"),
    ({"needs_review": True, "copies": True}, "needs_review"),
    ({"copies": True}, "true"),
    ({"where": "width > 20 -- all of them"}, "width > 20 AND duplicate_of IS NULL"),
    ({"where": "path LIKE 'red/0%' OR path LIKE '%1.png'", "verdicts": ["clean"]},
     "(path LIKE 'red/0%' OR path LIKE '%1.png') AND verdict = 'clean' AND duplicate_of IS NULL"),
])  # fmt: skip
def test_questions(client, own, question, condition):
    expected = {key for (key,) in rows(own, f"SELECT sample_id FROM images WHERE {condition}")}
    assert expected
    for sort in SORTS:
        assert {row["sample_id"] for row in page(client, sort=sort, **question)} == expected


def test_decided_or_not(client):
    first = page(client, end=3)
    decide(client, "accept", first)
    assert {row["sample_id"] for row in page(client, reviewed=True)} == {row["sample_id"] for row in first}
    assert not {row["sample_id"] for row in page(client, reviewed=False)} & {row["sample_id"] for row in first}


@pytest.mark.parametrize("where", [
    "nonsense", "1 = 1) UNION SELECT 1 --", "true; DROP TABLE reviews", "true; SELECT 1", "(", "'",
    "path IN (SELECT content FROM read_text('/etc/passwd'))", "path IN (SELECT filename FROM read_blob('/etc/*'))",
    "EXISTS (SELECT * FROM read_csv('/etc/passwd'))", "EXISTS (SELECT * FROM '/etc/passwd')",
    "EXISTS (SELECT * FROM glob('/*'))", "EXISTS (SELECT * FROM 'https://example.com/a.parquet')",
    "true); COPY images TO '/tmp/stolen.csv'; SELECT 1 WHERE (true", "true); ATTACH '/tmp/x.db' AS x; SELECT (1",
    "true); SET enable_external_access = true; SELECT (1", "true); INSTALL httpfs; SELECT (1",
    "true); LOAD json; SELECT (1",
    "true); DELETE FROM images; SELECT rowid FROM images WHERE (true", "true); UPDATE images SET path = ''; SELECT (1",
])  # fmt: skip
def test_a_condition_can_neither_write_nor_look_elsewhere(client, own, where):
    before = [rows(own, f"SELECT * FROM {name} ORDER BY ALL") for name in ("images", "reviews")]
    answer = post(client, "count", question={"where": where})
    if answer.status_code == 200:  # what opens a parenthesis of its own may name rows, and nothing else
        assert "UNION" in where
    else:
        assert answer.status_code in (400, 409), answer.text
        assert answer.json()["error"]
    assert [rows(own, f"SELECT * FROM {name} ORDER BY ALL") for name in ("images", "reviews")] == before
    assert not Path("/tmp/stolen.csv").exists()


def test_a_condition_that_takes_too_long_is_stopped(client, monkeypatch):
    monkeypatch.setattr("cleanweb.review.store._LIMIT_S", 0.5)
    started = time.monotonic()
    answer = post(client, "count", question={"where": "(SELECT sum(a.range * b.range) FROM range(1000000) a, "
                                                      "range(1000000) b) > width"})  # fmt: skip
    assert (answer.status_code, "more than 0.5 s" in answer.text) == (400, True), answer.text
    assert time.monotonic() - started < 5
    assert post(client, "count", question={}).status_code == 200


@pytest.mark.parametrize("body", [
    b"", b"[]", b"{", b"null", b'{"question": []}', b'{"question": {"sort": "nowhere"}}', b'{"question": {"x": 1}}',
    b'{"question": {"verdicts": "clean"}}', b'{"begin": -1, "end": 5}', b'{"begin": "0", "end": 5}', b"\xff\xfe",
    b'{"question": {"where": 5}, "begin": 0, "end": 5}', b"[" * 100_000,
])  # fmt: skip
def test_what_is_no_request_is_told_in_words(client, body):
    headers = {"Origin": HERE, "Content-Type": "application/json"}
    answer = client.post("/api/page", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]


# --- pictures -------------------------------------------------------------------------------------------------------


def test_a_picture_is_a_small_jpeg_with_a_tag(client):
    answer = client.get("/picture", params={"id": "red/02.png", "size": "large"})
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == (24, 24)
    again = client.get("/picture", params={"id": "red/02.png", "size": "large"},
                       headers={"If-None-Match": answer.headers["etag"]})  # fmt: skip
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("sample_id", ["/etc/passwd", "../../../../etc/passwd", "red/../red/02.png", "", "nowhere",
                                       "red/02.png' OR 1=1 --", "red/02.png\0"])  # fmt: skip
def test_only_samples_have_pictures(client, sample_id):
    answer = client.get("/picture", params={"id": sample_id})
    assert answer.status_code == 404
    assert "root:" not in answer.text


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/app.py",
                                  "/static//etc/passwd"])  # fmt: skip
def test_only_the_pages_own_files_are_static(client, path):
    assert client.get(path).status_code == 404


def test_a_file_that_is_no_picture_any_more_says_why(client, own, crawl, tmp_path):
    [row] = [row for row in page(client) if row["sample_id"] == "red/broken.jpg"]
    assert row["status"] == "not_an_image"
    assert "HTML" in client.get("/picture", params={"id": "red/broken.jpg"}).json()["error"]
    moved = tmp_path / "secret.txt"
    moved.write_text("secret", encoding="utf-8")
    for content, words in ((None, "cannot be read"), (moved, "not an image"), ("fifo", "not a file")):
        with manifest.changing(own) as con:
            (tmp_path / "gone.png").unlink(missing_ok=True)
            if content == "fifo":
                os.mkfifo(tmp_path / "gone.png")
            elif content:
                (tmp_path / "gone.png").symlink_to(content)
            con.execute("UPDATE images SET file = ? WHERE sample_id = 'red/03.png'", [str(tmp_path / "gone.png")])
        page(client)
        answer = client.get("/picture", params={"id": "red/03.png"})
        assert answer.status_code == 404
        assert "secret" not in answer.text
        assert answer.json()["error"], words


def test_embedded_pictures_are_shown(client, own, tmp_path, crawl):
    import duckdb

    file, content = tmp_path / "train.parquet", (crawl / "red" / "02.png").read_bytes()
    with duckdb.connect() as con:
        con.execute("CREATE TABLE t (image STRUCT(bytes BLOB, path VARCHAR), label VARCHAR)")
        con.execute("INSERT INTO t VALUES ({'bytes': ?, 'path': 'a'}, 'red'), ({'bytes': NULL, 'path': 'b'}, 'red')",
                    [content])  # fmt: skip
        con.execute(f"COPY t TO '{file}'")
    with manifest.changing(own) as con:
        con.execute("UPDATE images SET file = ?, row_in_file = 0 WHERE sample_id = 'red/04.png'", [str(file)])
        con.execute("UPDATE images SET file = ?, row_in_file = 1 WHERE sample_id = 'red/05.png'", [str(file)])
    assert client.get("/picture", params={"id": "red/04.png"}).headers["content-type"] == "image/jpeg"
    assert "embeds no image" in client.get("/picture", params={"id": "red/05.png"}).json()["error"]


# --- deciding -------------------------------------------------------------------------------------------------------


def test_decisions_are_answered_with_what_the_rows_say_now(client, own):
    first, second = page(client, end=2)
    done = decide(client, "ood", [first])
    [row] = [row for row in done["rows"] if row["sample_id"] == first["sample_id"]]  # and its copies
    assert (row["verdict"], row["confidence"], row["review"]["who"]) == ("ood", 1.0, "ada")
    assert page(client, end=2)[0] == row  # it keeps its place
    decide(client, "relabel", [second], "blue")
    assert rows(own, "SELECT sample_id, label, who FROM reviews ORDER BY 1") == sorted(
        [(first["sample_id"], None, "ada"), (second["sample_id"], "blue", "ada")])  # fmt: skip


def test_two_pages_do_not_overwrite_each_other(client, own):
    [row] = page(client, end=1)
    assert decide(client, "ood", [row])["conflicts"] == []
    late = decide(client, "relabel", [row], "blue")
    assert late["conflicts"] == [row["sample_id"]]
    assert late["rows"][0]["verdict"] == "ood"  # what is there now is told
    assert rows(own, "SELECT count(*) FROM reviews") == [(1,)]
    assert decide(client, "relabel", late["rows"], "blue")["conflicts"] == []


def test_undo_of_the_last_action_after_a_restart(client, own):
    before = rows(own, "SELECT * FROM images ORDER BY rowid")
    decide(client, "ood", page(client, end=2))
    decide(client, "accept", page(client, 4, 7))
    again = Store(own, "ada")
    assert len(again.undo(None)["review_ids"]) == 3
    assert len(again.undo(None)["review_ids"]) == 2
    assert again.undo(None)["review_ids"] == []
    assert rows(own, "SELECT * FROM images ORDER BY rowid") == before
    assert Store(own, "bob").undo(None)["review_ids"] == []  # not those of others
    assert [(action["images"], action["undone"]) for action in again.history()] == [(3, True), (2, True)]


@pytest.mark.parametrize(("body", "words"), [
    ({"action": "ood", "ids": ["nowhere"], "seen": {}}, "no sample"),
    ({"action": "relabel", "ids": ["red/02.png"], "seen": {}, "label": "cat"}, "none of the 3 classes"),
    ({"action": "relabel", "ids": ["red/02.png"], "seen": {}, "label": ["red"]}, ""),
    ({"action": "drop", "ids": ["red/02.png"], "seen": {}}, "cannot be decided"),
    ({"action": "ood", "ids": ["red/02.png"]}, "not told"),
    ({"action": "ood", "ids": "red/02.png", "seen": {}}, "list of texts"),
    ({"action": "ood", "ids": ["x"] * (MOST_AT_ONCE + 1), "seen": {}}, "too many"),
])  # fmt: skip
def test_what_cannot_be_decided_is_told(client, own, body, words):
    answer = post(client, "decide", **body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert rows(own, "SELECT * FROM reviews") == []


def test_the_page_notices_retag_and_others(client, own):
    [row] = page(client, end=1)
    seen = client.get("/api/stamp").json()
    reviews.decide(own, [row["sample_id"]], "ood", who="bob")
    other = client.get("/api/stamp").json()
    assert other["stamp"] != seen["stamp"]
    assert other["generation"] == seen["generation"]
    retag(own)
    assert client.get("/api/stamp").json()["generation"] != seen["generation"]
    assert page(client, reviewed=True)[0]["review"]["who"] == "bob"


def test_a_run_that_is_gone_is_told(client, own):
    shutil.rmtree(own)
    answer = post(client, "page", question={}, begin=0, end=9)
    assert (answer.status_code, bool(answer.json()["error"])) == (409, True)


def test_the_log_is_written_into_the_file_when_idle(store, own, monkeypatch):
    monkeypatch.setattr("cleanweb.review.store._IDLE_S", 0.1)
    stop = threading.Event()
    thread = threading.Thread(target=store.attend, args=(stop,))
    thread.start()
    row = store.page(Question(), 0, 1)["rows"][0]
    store.decide("ood", [row["sample_id"]], None, {row["sample_id"]: row["mark"]})
    deadline = time.monotonic() + 10
    while (own / "manifest.duckdb.wal").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    thread.join()
    assert not (own / "manifest.duckdb.wal").exists()
    assert rows(own, "SELECT count(*) FROM reviews") == [(1,)]


# --- the command ----------------------------------------------------------------------------------------------------


@contextmanager
def started(run: Path, *words: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """The command, and the address it prints; killed at the end."""
    command = [sys.executable, "-m", "cleanweb", "review", "--run", str(run), "--no-browser", "--who", "ada", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def asked(address: str, path: str, body: dict | None = None) -> dict:
    home, token = address.split("/?token=")
    headers = {"Cookie": f"cleanweb-review-{home.rsplit(':', 1)[1]}={token}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(home + path, data, headers | {"Origin": home})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def decided(address: str, place: int) -> str:
    found = asked(address, "/api/page", {"question": {}, "begin": place, "end": place + 1})["rows"][0]
    done = asked(address, "/api/decide", {"action": "ood", "ids": [found["sample_id"]],
                                          "seen": {found["sample_id"]: found["mark"]}})  # fmt: skip
    assert len(done["review_ids"]) == 1
    return found["sample_id"]


def test_it_serves_until_interrupted_and_says_what_next(own):
    with started(own) as (process, address):
        assert address.startswith("http://127.0.0.1:")
        decided(address, 0)
        for words in (["sql", "SELECT count(*) FROM reviews"], ["export", "--out", "-"], ["retag", "--quiet"]):
            done = subprocess.run([sys.executable, "-m", "cleanweb", *words, "--run", str(own)], capture_output=True,
                                  text=True, check=False)  # fmt: skip
            assert done.returncode == 0, done.stderr
        decided(address, 1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "2 decisions taken." in errors
    assert f"cleanweb retag --run {own}" in errors
    assert "Traceback" not in errors
    assert not (own / "manifest.duckdb.wal").exists()


def test_nothing_is_lost_where_the_server_is_killed_right_after_the_answer(own):
    with started(own) as (process, address):
        keys = {decided(address, place) for place in range(3)}
        process.kill()
    assert {key for (key,) in rows(own, "SELECT sample_id FROM reviews")} == keys
    with started(own) as (_, address):
        assert len(asked(address, "/api/undo", {"review_ids": None})["review_ids"]) == 1
    assert rows(own, "SELECT count(*) FROM reviews WHERE undone_at IS NULL") == [(2,)]


def test_it_listens_on_this_machine_alone(own):
    with started(own) as (_, address):
        port = int(address.split("/?")[0].rsplit(":", 1)[1])
        for name in ("/proc/net/tcp", "/proc/net/tcp6"):
            if Path(name).exists():
                lines = [line.split() for line in Path(name).read_text().splitlines()[1:]]
                hosts = {line[1].split(":")[0] for line in lines if int(line[1].split(":")[1], 16) == port}
                assert hosts <= {"0100007F"}, hosts


def test_what_is_wrong_is_told_in_words(own, tmp_path):
    with started(tmp_path / "nowhere") as (process, address):
        assert "no manifest" in process.communicate(timeout=30)[1]
        assert (address, process.returncode) == ("", 6)
    with started(own) as (_, address):
        port = address.split("/?")[0].rsplit(":", 1)[1]
        with started(own, "--port", port) as (second, nothing):
            assert "is not to be had" in second.communicate(timeout=30)[1]
            assert (nothing, second.returncode) == ("", 5)
