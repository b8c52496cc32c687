"""No cell runs in a spreadsheet, and every text comes back: through our CSV, our manifest and our reader."""

import io

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cleanweb import readers, texttable
from cleanweb.spreadsheet import guard, guard_sql, is_guarded, unguard, write

DANGEROUS = "=+-@\t\r\n＝＋－＠"
TEXT = st.text(st.sampled_from(f"{DANGEROUS}'\"a,; é😀\0") | st.characters(exclude_categories=["Cs"]), max_size=6)


@settings(max_examples=500, deadline=None)
@given(TEXT)
def test_guarding_is_undone_and_leaves_nothing_dangerous(text):
    assert unguard(guard(text)) == text
    assert guard(text)[:1] not in {*DANGEROUS}
    assert guard(text) in (text, f"'{text}")


@settings(max_examples=200, deadline=None)
@given(TEXT)
def test_in_sql_it_is_the_same(text):
    query = f"SELECT {guard_sql('t')} FROM (SELECT ?::VARCHAR AS t)"
    assert duckdb.execute(query, [text]).fetchall() == [(guard(text),)]


@pytest.mark.parametrize(("text", "cell"), [
    ("=1+1", "'=1+1"), ("-rf", "'-rf"), ("@SUM(A1)", "'@SUM(A1)"), ("'=1", "''=1"), ("a=1", "a=1"), ("'tis", "'tis"),
    ("", ""), ("\t=1", "'\t=1"), ("＝cmd", "'＝cmd"),
])  # fmt: skip
def test_what_a_cell_looks_like(text, cell):
    assert guard(text) == cell


def test_numbers_are_left_alone():
    stream = io.StringIO()
    write(["a", "b", "c"], [(-0.5, -3, None), ("-0.5", "x", "")], stream)
    assert stream.getvalue() == "a,b,c\n-0.5,-3,\n'-0.5,x,\n"


WORDS = TEXT.filter(lambda text: text.strip() and "\0" not in text)  # an empty label is none, and NUL no text


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WORDS, min_size=1, max_size=5))
def test_our_reader_undoes_it_in_our_tables_only(tmp_path, labels):
    export, audit = ["path", "label", "verdict", "sample_id"], ["path", "label", "offered_first", "offered_second"]
    for columns, back in ((export, labels), (audit, labels), (["path", "label"], [*map(guard, labels)])):
        with (tmp_path / "t.csv").open("w", encoding="utf-8", newline="") as stream:
            write(columns, ([str(i), x, "clean", "x"][: len(columns)] for i, x in enumerate(labels)), stream)
        read, records = texttable.read(tmp_path / "t.csv")
        assert [record[read.index("label")] for record in records] == back


def test_a_crawl_comes_back_through_an_exported_table(tmp_path):
    labels = ["=1+1", "-rf", "'=x", "cat", "@me"]
    for i in range(len(labels)):
        (tmp_path / f"-{i}.jpg").write_bytes(b"image")
    with (tmp_path / "labels.csv").open("w", encoding="utf-8", newline="") as stream:
        write(["path", "label", "verdict", "sample_id"], ((f"-{i}.jpg", label, "clean", f"-{i}.jpg")
                                                          for i, label in enumerate(labels)), stream)  # fmt: skip
    assert (tmp_path / "labels.csv").read_text().splitlines()[1] == "'-0.jpg,'=1+1,clean,'-0.jpg"
    crawl = readers.read(tmp_path, tmp_path / "labels.csv")
    assert [(sample.path, sample.given_label) for sample in crawl.samples] == [
        (f"-{i}.jpg", label) for i, label in enumerate(labels)
    ]


def test_ours_are_known_by_their_columns():
    assert is_guarded(["path", "label", "verdict", "sample_id"])
    assert not is_guarded(["path", "label", "verdict"])
