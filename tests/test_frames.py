"""Frames as the manifest holds them: what comes back is what a query gives, no text twice; parts are the whole."""

import duckdb
import pandas as pd
import pytest

from cleanweb import frames, manifest
from cleanweb.schema import TABLES

HOSTILE = ["", "it's", 'a "b"', "a,b\nc", "'); DROP TABLE t; --", "é\u202e", "\\", "😀", "None", "nan", "Ａ"]
N = 12_000


@pytest.fixture
def con():
    rows = pd.DataFrame({
        "few": pd.Series([(*HOSTILE, None)[i % (len(HOSTILE) + 1)] for i in range(N)], dtype=object),
        "many": [f"{i:05d}.jpg" for i in range(N)],
        "none": pd.Series([None] * N, dtype=object),
        "number": range(N),
    })  # fmt: skip
    with duckdb.connect() as con:
        con.register("frame", rows)
        con.execute('CREATE TABLE t (few VARCHAR, many VARCHAR, "none" VARCHAR, number INTEGER)')
        con.execute("INSERT INTO t SELECT * FROM frame")
        yield con


def test_it_is_what_a_plain_query_gives(con):
    for query in ("SELECT * FROM t", "SELECT number FROM t", "SELECT * FROM t WHERE number < 0"):
        pd.testing.assert_frame_equal(frames.shared_texts(con, query), con.execute(query).df())


def test_texts_of_which_there_are_few_are_there_once(con):
    column = frames.shared_texts(con, "SELECT * FROM t")["few"].array
    held = column if isinstance(column, pd.arrays.NumpyExtensionArray) else getattr(column, "_ndarray", None)
    if held is None:
        pytest.skip("texts are kept by pyarrow here")
    assert len({id(text) for text in held}) <= len(HOSTILE) + 1


def test_parts_are_the_whole(monkeypatch):
    whole = manifest.empty("classes").reindex(range(7)).assign(label=[f"c{i}" for i in range(7)], images=range(7))
    monkeypatch.setattr(frames, "_PART", 3)
    parts = list(frames.typed_parts("classes", whole))
    assert [len(part) for part in parts] == [3, 3, 1]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), frames.typed("classes", whole))
    [nothing] = frames.typed_parts("classes", whole.iloc[:0])
    assert list(nothing.columns) == [name for name, _, _ in TABLES["classes"]]
