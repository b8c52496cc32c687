"""Tables that are text: every encoding and line end, what is wrong with its line, and memory that does not grow."""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import duckdb
import pytest

from cleanweb import readers, texttable
from cleanweb.errors import CleanwebError, CrawlError, UsageError
from cleanweb.records import Status

ROWS = [["a.jpg", "cat"], ["b.jpg", "007"], ["ü.jpg", 'a "quoted", label\nof two lines']]


def csv_of(rows: list[list[str]], end: str = "\n") -> str:
    return end.join(
        ",".join('"' + value.replace('"', '""') + '"' for value in row) for row in [["path", "label"], *rows]
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_encoding_and_line_end(tmp_path: Path, encoding: str, end: str) -> None:
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    (tmp_path / "t.csv").write_bytes((mark + csv_of(ROWS, end)).encode(encoding))
    columns, records = texttable.read(tmp_path / "t.csv")
    assert columns == ["path", "label"]
    assert list(records) == ROWS
    lines = "".join(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n" for row in ROWS)
    (tmp_path / "t.jsonl").write_bytes((mark + lines).encode(encoding))
    columns, records = texttable.read(tmp_path / "t.jsonl")
    assert list(records) == ROWS


def failing(content: bytes, folder: Path) -> str:
    (folder / "t.csv").write_bytes(content)
    with pytest.raises(CrawlError) as caught:
        list(texttable.read(folder / "t.csv")[1])
    return str(caught.value).removeprefix(str(folder / "t.csv"))


GOOD = b"a.jpg,caf\xc3\xa9\n"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (b"b.jpg,caf\xe9\n", "the byte 0xe9 is not UTF-8.*iconv"),
        (b"b.jpg,dog,big\n", "3 fields"),
        (b"b.jpg\n", "1 fields"),
        (b'"b.jpg,dog\n', "a quote is opened and not closed"),
        (b'b.jpg,"dog" house\n', "a quote"),
        (b"b.jpg,d\0g\n", "a NUL byte"),
    ],
)
@pytest.mark.parametrize("before", [1, 3000, 100_000])
def test_a_bad_row_is_told_with_its_line_however_late(tmp_path: Path, row: bytes, words: str, before: int) -> None:
    said = failing(b"path,label\n" + GOOD * before + row + GOOD * 3, tmp_path)
    assert said.startswith(f", line {before + 2}: ")
    assert all(word in said for word in words.split(".*"))


def test_what_is_no_text_is_said(tmp_path: Path) -> None:
    assert "line 1: a NUL byte" in failing("path,label\na.jpg,cat\n".encode("utf-16-le"), tmp_path)
    assert "UTF-16" in failing("path,label\na.jpg,cat\n".encode("utf-16")[:-1], tmp_path)
    assert "UTF-16" in failing(b"\xff\xfe" + b"a\0,\0b\0\n\0" + b"\x00\xd8x\0", tmp_path)
    assert "is empty" in failing(b"", tmp_path)
    assert "is empty" in failing(b"\xef\xbb\xbf \n\r\n", tmp_path)
    assert "no table" in failing(b"path,label\n" + b"x" * (texttable.LONGEST + 1), tmp_path)
    assert "line 2" in failing(b'path,label\n"' + b"x\n" * texttable.LONGEST, tmp_path)  # a quote that never ends
    assert "line 1: not JSON" in failing(b"[" * 100_000, tmp_path)
    assert "line 2: not JSON" in failing(b'{"path": 1}\n' + b'{"path": ' * 100_000, tmp_path)
    assert "line 1: not JSON" in failing(b'{"path": ' + b"9" * 5000 + b"}", tmp_path)


@pytest.mark.parametrize("header", ["path,label,label", "path,path,label", "path,label,Label"])
def test_a_column_twice_is_asked_about(tmp_path: Path, header: str) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "t.csv").write_text(f"{header}\na.jpg,cat,dog\n")
    with pytest.raises(UsageError, match="several columns"):
        readers.read(tmp_path / "t.csv")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_memory_does_not_grow_with_the_table(tmp_path: Path, kind: str) -> None:
    row = "images/a.jpg,cat\n" if kind == "csv" else '{"path": "images/a.jpg", "label": "cat"}\n'
    table = tmp_path / f"t.{kind}"
    n = 200_000 if kind == "csv" else 50_000
    table.write_text(("path,label\n" if kind == "csv" else "") + row * n)
    tracemalloc.start()
    try:
        assert sum(1 for _ in texttable.read(table)[1]) == n
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * texttable._HEAD  # the head is held, the rest is not


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_ten_million_rows_are_read_in_the_memory_of_few(tmp_path: Path, kind: str) -> None:
    """In a process of its own: what it holds at most, in MB, is told by the operating system."""
    look = """if True:
        import resource, sys
        from pathlib import Path
        from cleanweb import texttable
        print(sum(1 for _ in texttable.read(Path(sys.argv[1]))[1]))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"""
    table, peaks = tmp_path / f"t.{kind}", []
    for n in (1_000, 10_000_000):
        with table.open("w") as stream:
            stream.writelines(["path,label\n"] if kind == "csv" else [])
            row = "images/{0}.jpg,cat\n" if kind == "csv" else '{{"path": "images/{0}.jpg", "label": "cat"}}\n'
            stream.writelines(row.format(i) for i in range(n))
        done = subprocess.run([sys.executable, "-c", look, table], capture_output=True, text=True, check=True)
        rows, peak = map(int, done.stdout.split())
        assert rows == n
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 30


LABELS = ["cat", "dog", "007", "7", "0x1F", "1e5", "nan", "None", "NULL", "true", "😀 emoji", "two\nlines", "tab\there",
          "<script>", "=1+1", "../..", "\x1b[2J", "a" * 1000, "ünïcödé", "\u202eright to left"]  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_labels_are_text_whatever_they_look_like(tmp_path: Path, kind: str) -> None:
    import pandas as pd

    odd = [("", Status.UNLABELED), ("  \t", Status.UNLABELED), ("b" * 1001, Status.UNLABELED),
           ("c" * (1 << 20), Status.UNLABELED)]  # fmt: skip
    frame = pd.DataFrame({"label": [*LABELS, *(label for label, _ in odd)]})
    frame["path"] = [f"{i}.jpg" for i in range(len(frame))]
    for name in frame["path"]:
        (tmp_path / name).touch()
    table = tmp_path / f"t.{kind}"
    match kind:
        case "csv":
            frame.to_csv(table, index=False)
        case "jsonl":
            frame.to_json(table, orient="records", lines=True)
        case "parquet":
            duckdb.sql(f"COPY (SELECT * FROM frame) TO '{table}'")
    samples = readers.read(table).samples
    assert [s.given_label for s in samples] == [*LABELS, *[None] * len(odd)]
    assert [s.status for s in samples] == [Status.OK] * len(LABELS) + [status for _, status in odd]
    assert "more than 1,000 characters" in samples[-1].note


def test_numbers_and_nothing_as_labels(tmp_path: Path) -> None:
    values = ["null", "NaN", "7", "7.0", "7.5", "true", "1e400", "Infinity", '"007"', '"\\ud800"', '"\\u0000"']
    for i in range(len(values)):
        (tmp_path / f"{i}.jpg").touch()
    lines = "".join(f'{{"path": "{i}.jpg", "label": {value}}}\n' for i, value in enumerate(values))
    (tmp_path / "t.jsonl").write_text(lines)
    found = [sample.given_label for sample in readers.read(tmp_path / "t.jsonl").samples]
    assert found == [None, None, "7", "7", "7.5", "true", "1e400", None, "007", "\\ud800", "\0"]


def test_ten_thousand_labels_and_one(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    many = "".join(f"{i}.jpg,label {i}\n" for i in range(10_000))
    for i in range(10_000):
        (tmp_path / f"{i}.jpg").touch()
    (tmp_path / "t.csv").write_text("path,label\n" + many)
    assert len({s.given_label for s in readers.read(tmp_path / "t.csv").samples}) == 10_000
    (tmp_path / "t.csv").write_text("path,label\n" + "a.jpg,cat\n" * 3)
    with pytest.raises(CleanwebError, match="only the class 'cat'"):
        readers.read(tmp_path / "t.csv")
