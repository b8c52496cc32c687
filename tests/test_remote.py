"""Crawls in object stores and on the web, over real servers on this machine: the same samples as from the disk, and
what fails is asked for again, or is a row with a reason."""

import html
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

import cleanweb
from cleanweb import exporting, manifest, opening, readers, remote, reviews, shards
from cleanweb.errors import CrawlError, MachineError, UsageError
from cleanweb.records import Status
from cleanweb.remote import Remote, place
from tests.loopback import Server, serving
from tests.test_cli import cleanweb as command

pytest.importorskip("aiohttp", reason='pip install "cleanweb-data[remote]"')


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.001)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What webdataset and img2dataset wrote, a folder per class, and a table."""
    folder = tmp_path_factory.mktemp("written")
    with zipfile.ZipFile(Path(__file__).parent / "data" / "shards.zip") as packed:
        packed.extractall(folder)
    lines = ["path,label"]
    for i in range(9):
        label = ("red", "green", "blue")[i % 3]
        (folder / "classes" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "web" / f"{i}.jpg", folder / "classes" / label / f"{i}.jpg")
        lines.append(f"{i}.jpg,{label}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def server(written: Path) -> Iterator[Server]:
    with serving(written) as server:
        yield server


def rows(crawl: readers.Crawl) -> list[tuple[str, str, str | None, str, int | None]]:
    return sorted((s.sample_id, s.status.value, s.given_label, s.url, s.row) for s in crawl.samples)


def found(crawl: readers.Crawl) -> dict[str, object]:
    return {crawl.samples[i].sample_id: c.read_bytes() if isinstance(c, Path) else c
            for i, c in opening.contents(crawl.samples)}  # fmt: skip


SOURCES = ["wds", "wds/wds-{000000..000001}.tar", "wds/wds-*.tar", "wds/wds-000001.tar", "webdataset", "files",
           "parquet", "untouched", "classes"]  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_a_crawl_on_a_web_server_is_the_same_as_on_disk(written: Path, server: Server, source: str) -> None:
    here, there = readers.read(written / source), readers.read(place(f"{server.url}/{source}"))
    assert rows(there) == rows(here)
    assert found(there) == found(here)
    for sample in there.samples[:2]:
        if sample.file:
            assert opening.read_bytes(sample.file, sample.row) == found(here)[sample.sample_id]


def test_tables_elsewhere(written: Path, server: Server) -> None:
    here = readers.read(written / "web", written / "labels.csv")
    for source, labels in ((f"{server.url}/web", written / "labels.csv"), (written / "web", f"{server.url}/labels.csv"),
                           (f"{server.url}/web", f"{server.url}/labels.csv")):  # fmt: skip
        there = readers.read(place(source), place(labels))
        assert rows(there) == rows(here)
        assert found(there) == found(here)
    paths = ("0.jpg", "1.jpg", "gone.jpg", "../labels.csv", "/etc/passwd", "http://127.0.0.1:1/a", "file:///etc/passwd")
    (written / "web" / "own.csv").write_text("path,label\n" + "".join(f"{p},{p[0]}\n" for p in paths))
    crawl = readers.read(place(f"{server.url}/web/own.csv"))
    (written / "web" / "own.csv").unlink()
    assert [s.status.value for s in crawl.samples] == ["ok", "ok", "ok", "outside", "outside", "outside", "ok"]
    contents = list(found(crawl).values())
    assert [isinstance(content, bytes) for content in contents] == [True, True, False, False]
    assert contents[2] == remote.Unread(Status.MISSING, "no such file")
    assert crawl.samples[6].file == f"{server.url}/web/file:/etc/passwd"  # a name like others


@pytest.mark.parametrize("way", ["../", "%2e%2e/", "red/../../", "red/%2E./../"])
def test_no_address_leads_out_of_a_crawl_through_it(written: Path, server: Server, tmp_path: Path, way: str) -> None:
    lines = ["path,label", "red/0.jpg,red", "blue/2.jpg,blue", f"{server.url}/classes/{way}web/0.jpg,red"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    crawl = readers.read(place(f"{server.url}/classes"), tmp_path / "t.csv")
    assert crawl.samples[2].status == Status.OUTSIDE
    found(crawl)
    assert not server.asked["/web/0.jpg"]


def test_shards_are_read_in_parts_and_not_kept(
    written: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    crawl = readers.read(place(f"{server.url}/wds"))
    found(crawl)
    total = sum(file.stat().st_size for file in (written / "wds").glob("*.tar"))
    assert server.sent <= 2 * total  # once for the list and the labels, once for the images
    server.sent = 0
    opening.read_bytes(crawl.samples[0].file, crawl.samples[0].row)
    assert server.sent <= (1 << 18)
    assert not list(tmp_path.iterdir())


def test_what_fails_for_a_while_is_asked_for_again(written: Path, server: Server) -> None:
    here = readers.read(written / "wds")
    for path in ("/wds/wds-000000.tar", "/wds/", "/wds/classnames.txt"):
        server.failing[path] = (remote.TRIES - 1, 503)
    crawl = readers.read(place(f"{server.url}/wds"))
    server.failing["/wds/wds-000001.tar"] = (remote.TRIES - 1, 500)
    assert rows(crawl) == rows(here)
    assert found(crawl) == found(here)


def test_a_shard_that_stays_unreadable_is_rows_with_reasons(written: Path, server: Server) -> None:
    server.failing["/wds/wds-000000.tar"] = (10**6, 500)
    crawl = readers.read(place(f"{server.url}/wds"))
    assert [s.status.value for s in crawl.samples] == ["error"] + ["ok"] * 4
    assert "500" in crawl.samples[0].note
    server.failing = {}
    crawl = readers.read(place(f"{server.url}/wds"))
    server.failing["/wds/wds-000000.tar"] = (10**6, 500)  # from now on
    contents = found(crawl)
    assert [isinstance(contents[s.sample_id], bytes) for s in crawl.samples] == [False] * 5 + [True] * 4
    assert all("500" in c.words for c in contents.values() if not isinstance(c, bytes))
    server.failing = {"/parquet/00000.parquet": (10**6, 500)}
    crawl = readers.read(place(f"{server.url}/parquet"))
    assert sorted(s.status.value for s in crawl.samples) == sorted(["error", *["ok"] * 5, "not_downloaded"])
    server.failing = {"/wds/": (10**6, 500)}
    with pytest.raises(CrawlError, match="Are the address and the credentials right"):
        readers.read(place(f"{server.url}/wds"))


def test_a_single_image_that_stays_unreadable_is_a_row(server: Server) -> None:
    crawl = readers.read(place(f"{server.url}/classes"))
    server.failing = {"/classes/red/0.jpg": (10**6, 502), "/classes/red/3.jpg": (10**6, 403)}
    contents = found(crawl)
    assert [name for name, content in contents.items() if not isinstance(content, bytes)] == ["red/0.jpg", "red/3.jpg"]
    assert server.asked["/classes/red/0.jpg"] == remote.TRIES
    assert server.asked["/classes/red/3.jpg"] == 1  # asking again is in vain


def test_only_what_is_asked_for_is_fetched(server: Server) -> None:
    crawl = readers.read(place(f"{server.url}/classes"))
    server.asked.clear()
    assert [i for i, _ in opening.contents(crawl.samples, [1, 3])] == [1, 3]
    assert sum(server.asked.values()) == 2


def test_a_file_that_is_too_large_is_a_row_and_not_taken_whole(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    crawl = readers.read(place(f"{server.url}/classes"))
    sizes = {name: len(content) for name, content in found(crawl).items()}
    monkeypatch.setattr(remote, "MOST_BYTES", sorted(sizes.values())[4])
    server.asked.clear()
    contents = found(crawl)
    too_large = {name for name, content in contents.items() if not isinstance(content, bytes)}
    assert too_large == {name for name, size in sizes.items() if size > remote.MOST_BYTES}
    assert {contents[name].status for name in too_large} == {Status.TOO_LARGE}
    assert set(server.asked.values()) == {1}  # one request a file


def test_a_server_that_serves_no_parts_is_told(server: Server) -> None:
    server.parts = False
    crawl = readers.read(place(f"{server.url}/wds/wds-000000.tar"))
    assert len(crawl.samples) == 5  # one part is the whole of a small file
    assert all("serves no parts" in c.words for c in found(crawl).values())


def test_an_answer_does_not_lead_to_files_of_this_machine(server: Server, tmp_path: Path) -> None:
    secret = tmp_path / "secret.tar"
    shutil.copy(Path(__file__).parent / "data" / "shards.zip", secret)
    server.moved = {"/wds/wds-000000.tar": secret.as_uri(), "/classes/red/0.jpg": secret.as_uri()}
    crawl = readers.read(place(f"{server.url}/wds"))
    assert crawl.samples[0].status == Status.ERROR
    content = found(readers.read(place(f"{server.url}/classes")))["red/0.jpg"]
    assert not isinstance(content, bytes)


@pytest.mark.parametrize(
    "address", ["https://me:secret@host/a.tar", "s3://key:secret@bucket/a", "https://h/a.tar?sig=secret"]
)
def test_addresses_with_keys_are_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(UsageError) as told:
        place(address)
    assert "secret" not in str(told.value)
    assert place(Path("s3://bucket/a/b.tar")) == Remote("s3://bucket/a/b.tar")  # what `Path` makes of it is mended
    assert place("crawl/http:/x") == Path("crawl/http:/x")


def test_nothing_is_asked_unless_an_address_is_given(
    written: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", connect)
    crawl = readers.read(written / "webdataset")  # it names the addresses that its images were downloaded from
    assert len(found(crawl)) == 9
    (written / "addresses.csv").write_text(f"path,label\n{server.url}/web/0.jpg,x\n0.jpg,y\n")
    with pytest.raises(CrawlError):
        readers.read(written / "addresses.csv")
    assert not server.asked


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    remote._store_of.cache_clear()
    with pytest.raises(MachineError, match=r"cleanweb-data\[remote\]"):
        readers.read(place("s3://bucket/crawl"))
    remote._store_of.cache_clear()


def test_what_must_lie_on_this_machine_says_so(tmp_path: Path) -> None:
    for words in (["sql", "SELECT 1", "--run", "s3://bucket/run"], ["report", "--out", "s3://bucket/r.html"]):
        code, _, err = command(*words)
        assert code == 2
        assert "must lie on this machine" in err


def test_the_whole_way_over_http(written: Path, server: Server, tmp_path: Path) -> None:
    run = cleanweb.fit(f"{server.url}/wds", out=tmp_path / "run", backbone="cnn5", epochs=1, workers=0, device="cpu")
    images = run.images()
    assert images["file"].str.startswith(server.url).all()
    assert (images["status"] == "ok").all()
    assert (
        exporting.export(run.folder, "imagefolder", tmp_path / "out", only=("clean", "relabeled", "ood")).written == 9
    )
    assert (tmp_path / "run" / "report.html").read_text(encoding="utf-8").count("data:image/jpeg") >= 9
    assert len(run.predict(f"{server.url}/wds/wds-000001.tar")) == 4
    assert len(run.predict(f"{server.url}/classes/red")) == 3
    path = images["path"].iloc[0]
    named = f"{server.url}/wds/{path}" if not path.startswith(server.url) else path
    (written / "verified.csv").write_text(f"path,label\n{named},{images['given_label'].iloc[0]}\n")
    again = run.retag(trusted=f"{server.url}/verified.csv")  # as fit takes it
    assert again.images()["reason"].iloc[0] == "verified by a person"


def index(*links: str) -> str:
    return "".join(f'<a href="{link}">{link}</a>\n' for link in links)


def test_links_that_sort_a_list_are_no_images(written: Path, server: Server, tmp_path: Path) -> None:
    """As Apache writes them, on every list of a folder."""
    there = shutil.copytree(written / "classes", tmp_path / "served" / "classes")
    here = rows(readers.read(there))
    order = ("?C=N;O=D", "?C=M;O=A", "?C=S;O=A", "?C=D;O=A", "#top")
    for folder in (there, *there.iterdir()):
        links = [f"{file.name}/" if file.is_dir() else file.name for file in sorted(folder.iterdir())]
        (folder / "index.html").write_text(index(*order, "/", "/classes/", "../", *links))
    with serving(tmp_path / "served") as server:
        assert rows(readers.read(place(f"{server.url}/classes"))) == here


ODD = ["red car/x#1.png", "red car/50%25.png", "red car/100%.png", "red car/what?.png", "red car/a b.png",
       "é/é.png", "é/e\u0301.png", "é/a+b.png", "é/[x]{y}.png", "é/(1),2;3.png", "é/a&amp;b.png",
       "é/it's.png"]  # fmt: skip


def escaped_once(name: str) -> str:
    """As Apache and nginx write a link: less is escaped for the address, and & for HTML."""
    return html.escape(quote(name, "/&()+,;[]"))


@pytest.mark.parametrize("link", [quote, escaped_once])
def test_names_on_a_web_server_are_those_on_disk(tmp_path: Path, link: Callable[[str], str]) -> None:
    crawl = tmp_path / "my crawl"
    for name in ODD:
        (crawl / name).parent.mkdir(parents=True, exist_ok=True)
        (crawl / name).write_bytes(name.encode())
    here = readers.read(crawl)
    assert sorted(s.path for s in here.samples) == sorted(ODD)
    lines = [{"path": name, "label": name.partition("/")[0]} for name in ODD[1:]]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    listed = readers.read(crawl, tmp_path / "t.jsonl")
    for folder in (crawl, *crawl.iterdir()):
        if folder.is_dir():
            links = [link(file.name) + "/" * file.is_dir() for file in folder.iterdir()]
            (folder / "index.html").write_text(index(*links), encoding="utf-8")
    with serving(tmp_path) as server:
        for address in (f"{server.url}/my crawl", f"{server.url}/my%20crawl"):
            there = readers.read(place(address))
            assert rows(there) == rows(here)
            assert found(there) == {name: name.encode() for name in ODD}
            there = readers.read(place(address), tmp_path / "t.jsonl")
            assert rows(there) == rows(listed)
            assert found(there) == {name: name.encode() for name in ODD}
        again = [{"path": s.file, "label": s.given_label or "x"} for s in there.samples]
        (crawl / "t.jsonl").write_text("\n".join(map(json.dumps, again)), encoding="utf-8")
        there = readers.read(place(f"{server.url}/my%20crawl/t.jsonl"))
        assert found(there) == {name: name.encode() for name in ODD}


# --- an object store ------------------------------------------------------------------------------------------------


class Keys:
    """An object store that holds these keys."""

    def __init__(self, *keys: str):
        self.keys = keys

    def invalidate_cache(self) -> None:
        pass

    def find(self, folder: str, detail: bool) -> dict[str, dict[str, int]]:
        return {key: {"size": 0 if key.endswith("/") else 9} for key in self.keys}

    def info(self, url: str) -> dict[str, int]:
        if url.removeprefix("s3://") not in self.keys:
            raise FileNotFoundError
        return {"size": 9}


@pytest.mark.parametrize("markers", [(), ("b/sh/",), ("b/sh/", "b/sh/red car/", "b/sh/a/b/")])
def test_empty_files_that_stand_for_folders_are_none(markers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """As the console of S3 makes them where a person asks for a folder."""
    monkeypatch.setattr(remote, "_store", lambda url: Keys("b/sh/a-000.tar", "b/sh/x/a-001.tar", *markers))
    remote.listing.cache_clear()
    files = ["s3://b/sh/a-000.tar", "s3://b/sh/x/a-001.tar"]
    assert list(remote.listing("s3://b/sh")) == files
    assert readers.walk(Remote("s3://b/sh"), []) == files
    assert [shard.url for shard in shards.tars(Remote("s3://b/sh"))] == files
    assert [shard.url for shard in shards.tars(Remote("s3://b/sh/a-*.tar"))] == files[:1]
    remote.listing.cache_clear()


SECRET = "neither-in-manifest-nor-in-logs"


@pytest.fixture(scope="module")
def store(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket of an S3 server on this machine (moto's), with what `written` holds."""
    if not (importlib.util.find_spec("s3fs") and importlib.util.find_spec("moto")):
        pytest.skip('needs pip install s3fs "moto[server]"')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}"), ("AWS_ACCESS_KEY_ID", "someone"),
                            ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_DEFAULT_REGION", "us-east-1")):  # fmt: skip
            patch.setenv(name, value)
        moto = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        try:
            wait_for(port)
            fs = remote._store("s3://crawls")
            fs.mkdir("crawls")
            fs.put(f"{written}/", "s3://crawls/web/", recursive=True)
            yield "s3://crawls/web"
        finally:
            moto.terminate()
            moto.wait()
            remote._store_of.cache_clear()


def wait_for(port: int) -> None:
    for _ in range(300):
        with socket.socket() as asking:
            if asking.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the server does not start")


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_a_crawl_in_an_object_store_is_the_same_as_on_disk(written: Path, store: str, source: str) -> None:
    here, there = readers.read(written / source), readers.read(place(f"{store}/{source}"))
    assert rows(there) == rows(here)
    assert found(there) == found(here)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["wds", "wds/wds-*.tar", "classes"])
def test_folders_that_a_console_made_change_nothing(written: Path, store: str, source: str) -> None:
    fs = remote._store(store)
    for folder in ("", "wds/", "classes/", "classes/red/", "classes/red car/"):
        fs.call_s3("put_object", Bucket="crawls", Key=f"web/{folder}", Body=b"")
    assert rows(readers.read(place(f"{store}/{source}"))) == rows(readers.read(written / source))


@pytest.mark.slow
def test_no_more_of_an_object_is_taken_than_an_image_may_have(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    remote._store(store).pipe({f"{store}/sizes/0": b"", f"{store}/sizes/9": b"9" * 9})
    assert [remote.fetch(f"{store}/sizes/{n}") for n in (0, 9)] == [b"", b"9" * 9]
    monkeypatch.setattr(remote, "MOST_BYTES", 8)
    with pytest.raises(remote.TooLarge, match="larger than 8 bytes"):
        remote.fetch(f"{store}/sizes/9")


@pytest.mark.slow
def test_the_whole_way_in_an_object_store(
    written: Path, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = command("fit", f"{store}/classes", "--out", "s3://crawls/run", "--backbone", "cnn5", "--epochs", 1,
                             "--workers", 0, "--device", "cpu", "-vv")  # fmt: skip
    assert code == 0, err
    assert SECRET not in out + err
    assert not [name for name in ("Authorization", "Signature", "botocore") if name in err]
    assert "a copy of it in s3://crawls/run" in out
    fs = remote._store("s3://crawls")
    copied = {name.removeprefix("crawls/run/") for name in fs.find("crawls/run")}
    assert {"manifest.duckdb", "manifest.csv", "report.html", "classifier/model.safetensors"} <= copied
    for file in (tmp_path / "cleanweb-run").rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file
    fs.get("crawls/run/manifest.duckdb", str(tmp_path / "fetched.duckdb"))
    assert len(manifest.read(tmp_path / "fetched.duckdb", "images")) == 9
    for words in (["export", "-f", "webdataset", "--out", "s3://crawls/out"], ["export", "--out", "s3://crawls/t.csv"],
                  ["retag"], ["report"], ["predict", f"{store}/classes/red"],
                  ["predict", f"{store}/wds/wds-000000.tar"]):  # fmt: skip
        code, out, err = command(*words)
        assert code == 0, err
        assert SECRET not in out + err
    again = readers.read(place("s3://crawls/out"))
    assert len(found(again)) == len(manifest.select(tmp_path / "cleanweb-run", ["trainable"]))
    assert fs.exists("crawls/t.csv")
    code, _, err = command("export", "-f", "webdataset", "--out", "s3://crawls/out")
    assert code == 2
    assert "nothing is overwritten" in err
    code, _, err = command("export", "--out", f"{store}/classes/x.csv")
    assert code == 2
    assert "inside the crawl" in err


class Refusing:
    def put_file(self, file: str, to: str) -> None:
        raise PermissionError("not yours")


def test_what_cannot_be_copied_is_said_to_be_written_and_not_read(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "x.csv").write_text("path\n")
    monkeypatch.setattr(remote, "_store", lambda url: Refusing())
    with pytest.raises(MachineError) as told:
        remote.upload(tmp_path, "s3://crawls/out")
    words = "cannot be copied: s3://crawls/out/x.csv cannot be written (PermissionError: not yours)"
    assert str(told.value) == f"{tmp_path / 'x.csv'} {words}"


FAR = Remote("s3://crawls/classes")


@pytest.mark.parametrize("out", [FAR, FAR / "red" / "x.csv"])
def test_nothing_is_written_into_a_crawl_at_an_address(out: Remote) -> None:
    with pytest.raises(UsageError, match=r"inside the crawl s3://crawls/classes, .* another --sheet"):
        remote.refuse_inside(out, FAR, "--sheet")


@pytest.mark.parametrize(
    ("out", "crawl"),
    [(Remote("s3://crawls/classes-2"), FAR), (FAR.parent, FAR), (Path("s3:/crawls/classes/x"), FAR), (FAR, Path("/"))],
)
def test_what_lies_elsewhere_may_be_written(out: remote.Place, crawl: remote.Place) -> None:
    remote.refuse_inside(out, crawl, "--out")


@pytest.mark.slow
def test_an_object_store_that_goes_away_is_told(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    crawl = readers.read(place(f"{store}/wds"))
    remote._store("s3://crawls").rm("s3://crawls/web/wds/wds-000000.tar")
    contents = found(crawl)
    assert [isinstance(contents[s.sample_id], bytes) for s in crawl.samples] == [False] * 5 + [True] * 4
    with pytest.raises(CrawlError, match="Nothing found"):
        readers.read(place("s3://no-such-bucket/crawl"))


@pytest.mark.slow
def test_parts_of_a_manifest_in_an_object_store(written: Path, store: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, _, err = command("fit", written / "classes", "--out", run, "--backbone", "cnn5", "--epochs", 1, "--workers",
                           0, "--device", "cpu", "--parts", "s3://crawls/parts")  # fmt: skip
    assert code == 0, err
    assert not (run / "manifest-parts").exists()
    assert remote._store("s3://crawls").find("crawls/parts")
    assert len(manifest.read(run, "images")) == 9
    before = list(manifest.query(run, "SELECT sample_id, verdict FROM images ORDER BY 1")[1])
    reviews.decide(run, [before[0][0]], "ood")
    assert dict(manifest.query(run, "SELECT sample_id, verdict FROM images")[1])[before[0][0]] == "ood"
    for words in (["sql", "SELECT count(*) FROM trainable"], ["retag"], ["report"], ["export"]):
        code, out, err = command(*words, "--run", run)
        assert code == 0, err
        assert out
    assert dict(manifest.query(run, "SELECT sample_id, verdict FROM images")[1])[before[0][0]] == "ood"
