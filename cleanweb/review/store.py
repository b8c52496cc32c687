"""What the page asks of the manifest: pages of rows, counts, decisions.

The manifest is opened for every question and closed again, so that other commands can read it and `retag` can replace
it while the page is open. A question's rows are put in order once; what is kept are their row numbers, 8 bytes each,
so that any page of a million is at hand. Safe to call from several threads.
"""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleanweb import manifest, reviews
from cleanweb.database import Connection
from cleanweb.errors import CleanwebError, UsageError
from cleanweb.review.pictures import Source
from cleanweb.reviews import Done

if TYPE_CHECKING:
    import numpy as np

MOST_ROWS = 500  # in one page
MOST_AT_ONCE = 2_000  # decisions in one action
_QUESTIONS = 8  # whose order is kept: 8 MB each at a million rows
_LIMIT_S, _MEMORY = 5.0, "1GB"  # for a condition that a person wrote
_IDLE_S = 10.0  # after the last action what lies in DuckDB's log is written into the file; at a million rows in half a
_MOMENT_S = 0.5  # second, which who acts then has to wait; but each of the log's decisions costs whoever opens the file
_LONG_LOG = 64 << 10  # half a millisecond, and these are some forty

SORTS = {
    "uncertain": "confidence NULLS LAST",
    "sure": "confidence DESC NULLS LAST",
    "doubtful": "p_clean NULLS LAST",
    "class": "coalesce(final_label, given_label) NULLS LAST, confidence",
    "crawl": "1",
}
_COLUMNS = ("sample_id", "path", "status", "error", "width", "height", "given_label", "verdict", "suggested_label",
            "final_label", "p_clean", "p_id", "p_ood", "confidence", "needs_review", "reason", "predicted_label",
            "p_predicted", "duplicate_of", "sha256")  # fmt: skip
_ACTION = "decided_at, who"  # one action decides at one moment


@dataclass(frozen=True, slots=True)
class Question:
    """Which rows, in which order. Empty means: all."""

    verdicts: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()  # given or final
    needs_review: bool | None = None
    reviewed: bool | None = None
    copies: bool = False  # each copy of a picture, too
    where: str = ""  # a condition in SQL on images
    sort: str = "uncertain"

    def sql(self) -> tuple[str, list[object]]:
        """The statement that gives the row numbers, and what its ? stand for. Raises UsageError."""
        if self.sort not in SORTS:
            raise UsageError(f"There is no order {self.sort!r}, only {', '.join(SORTS)}.")
        conditions, values = list[str](), list[object]()
        if self.verdicts:
            conditions.append("verdict::VARCHAR IN (SELECT unnest(?::VARCHAR[]))")
            values.append(list(self.verdicts))
        if self.labels:
            conditions.append("(given_label IN (SELECT unnest(?::VARCHAR[])) OR final_label IN "
                              "(SELECT unnest(?::VARCHAR[])))")  # fmt: skip
            values += [list(self.labels)] * 2
        if self.needs_review is not None:
            conditions.append(f"needs_review = {bool(self.needs_review)}")
        if self.reviewed is not None:
            here = "IN" if self.reviewed else "NOT IN"
            conditions.append(f"sample_id {here} (SELECT sample_id FROM ({reviews.CURRENT}))")
        if not self.copies:
            conditions.append("duplicate_of IS NULL")
        if self.where.strip():
            conditions.append(f"({self.where}\n)")  # the line break ends a comment
        condition = " AND ".join(conditions) or "true"
        return f"SELECT rowid FROM numbered_images WHERE {condition} ORDER BY {SORTS[self.sort]}, rowid", values


class Store:
    """A run, as the page sees it."""

    def __init__(self, run: Path, who: str):
        self.run, self.who = run, who
        self.taken = self.undone = 0  # decisions, since the server began
        self._lock = threading.Lock()  # DuckDB does not open a file for reading and for writing in one process
        self._remembering = threading.Lock()  # of what is remembered below
        self._orders: OrderedDict[tuple[str, Question], tuple[np.ndarray, str]] = OrderedDict()  # and their stamps
        self._files: OrderedDict[str, Source] = OrderedDict()
        self._acted: float | None = None

    # --- looking ----------------------------------------------------------------------------------------------------

    def generation(self) -> str:
        """Another one where the manifest was written anew."""
        return str((self.run / "manifest.duckdb").stat().st_ino)

    def stamp(self) -> str:
        """Another one after every change, ours and others'."""
        found = []
        for name in ("manifest.duckdb", "manifest.duckdb.wal"):
            try:
                state = (self.run / name).stat()
                found.append(f"{state.st_ino:x}.{state.st_mtime_ns:x}.{state.st_size:x}")
            except OSError:
                found.append("-")
        return "-".join(found)

    def about(self) -> dict[str, object]:
        """What the page says of the run, and what can be chosen."""
        with self._lock, manifest.attached(self.run) as con:
            counts = dict(con.execute("SELECT verdict::VARCHAR, count(*) FROM images GROUP BY 1").fetchall())
            classes = con.execute("SELECT label, images FROM classes ORDER BY label").fetchall()
            [(to_look, copies)] = con.execute("SELECT count(*) FILTER (needs_review), count(duplicate_of) FROM images"
                                              ).fetchall()  # fmt: skip
            [(decided,)] = con.execute("SELECT count(*) FROM reviews WHERE undone_at IS NULL").fetchall()
            columns = con.execute("SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'images'"
                                  ).fetchall()  # fmt: skip
        return {"run": str(self.run), "who": self.who, "counts": counts, "needs_review": to_look, "copies": copies,
                "decided": decided, "classes": classes, "columns": columns, "sorts": list(SORTS),
                "most_at_once": MOST_AT_ONCE, "generation": self.generation(), "stamp": self.stamp()}  # fmt: skip

    def count(self, question: Question) -> dict[str, object]:
        """How many rows there are. Puts them in order anew."""
        generation, stamp = self.generation(), self.stamp()  # as they were before looking: what comes after is news
        rows = self._ordered(question, generation, stamp)
        return {"count": len(rows), "generation": generation, "stamp": stamp}

    def page(self, question: Question, begin: int, end: int) -> dict[str, object]:
        """The rows from place `begin` up to `end`, `MOST_ROWS` at most."""
        generation, stamp = self.generation(), self.stamp()
        places = self._ordered(question, generation)[begin : min(end, begin + MOST_ROWS)]
        with self._lock:
            rows = self._rows("rowid IN (SELECT unnest(?::BIGINT[]))", places.tolist())
        by_place = {row.pop("rowid"): row for row in rows}
        found = [by_place.get(int(place)) for place in places]
        return {"rows": found, "generation": generation, "stamp": stamp}

    def _some(self, sample_ids: Sequence[str]) -> list[dict[str, Any]]:
        """These samples."""
        rows = self._rows(reviews.NAMED, [*sample_ids])
        return [{name: value for name, value in row.items() if name != "rowid"} for row in rows]

    def file(self, sample_id: str) -> Source | None:
        """Where the image of a sample is: file, row in it, status, error. None where there is no such sample."""
        found = self._files.get(sample_id)
        if found is None:
            with self._lock, manifest.attached(self.run) as con:
                found = con.execute("SELECT file, row_in_file, status, error FROM images WHERE sample_id = ?",
                                    [sample_id]).fetchone()  # fmt: skip
            if found is None:
                return None
            self._remember(sample_id, found)
        return found

    def _remember(self, sample_id: str, found: Source) -> None:
        with self._remembering:
            self._files[sample_id] = found
            while len(self._files) > 50_000:
                self._files.popitem(last=False)

    def _ordered(self, question: Question, generation: str, stamp: str | None = None) -> "np.ndarray":
        """The row numbers of a question, as they were; or as they are at that stamp."""
        key = (generation, question)
        found, at = self._orders.get(key, (None, ""))
        if found is None or stamp not in (None, at):
            sql, values = question.sql()
            with self._lock, manifest.opened(self.run, _LIMIT_S, _MEMORY) as con:
                if len(con.extract_statements(sql)) != 1:
                    raise UsageError("Give one condition, as confidence < 0.5.")
                found = con.execute(sql, values).fetchnumpy()["rowid"]
            at = stamp or ""
        with self._remembering:
            if any(generation != earlier for earlier, _ in self._orders):  # written anew: nothing is as it was
                self._orders.clear()
                self._files.clear()
            self._orders[key] = found, at
            self._orders.move_to_end(key)
            while len(self._orders) > _QUESTIONS:
                self._orders.popitem(last=False)
        return found

    def _rows(self, condition: str, values: list[Any]) -> list[dict[str, Any]]:
        """The rows of images where the condition holds, whose ? stands for these."""
        with manifest.attached(self.run) as con:
            names = ("rowid", "file", "row_in_file", *_COLUMNS)
            sql = f"SELECT {', '.join(names)} FROM numbered_images WHERE {condition}"
            rows = [dict(zip(names, row, strict=True)) for row in con.execute(sql, [values]).fetchall()]
            keys = [row["duplicate_of"] or row["sample_id"] for row in rows]
            standing, copies = self._decisions(con, keys)
        for row, key in zip(rows, keys, strict=True):
            place = row.pop("file"), row.pop("row_in_file")
            self._remember(row["sample_id"], (*place, row["status"], row["error"]))
            row["review"] = standing.get(key)
            row["copies"] = copies.get(key, 0)
            number = row["review"] and row["review"]["id"]
            row["mark"] = reviews.mark(number, row["verdict"], row["final_label"])
        return rows

    @staticmethod
    def _decisions(con: Connection, keys: list[str]) -> tuple[dict[str, dict[str, Any]], Counter[str]]:
        """Of these pictures, by the sample_id of their kept copies: the decision that stands, the number of copies."""
        found = con.execute("SELECT sample_id, duplicate_of FROM images WHERE duplicate_of IN "
                            "(SELECT unnest(?::VARCHAR[]))", [keys]).fetchall()  # fmt: skip
        home = dict(zip(keys, keys, strict=True)) | dict(found)
        rows = con.execute("SELECT sample_id, review_id, who, decided_at FROM reviews WHERE undone_at IS NULL AND "
                           "sample_id IN (SELECT unnest(?::VARCHAR[])) ORDER BY review_id", [list(home)])  # fmt: skip
        standing = {home[key]: {"id": number, "who": who, "at": f"{at:%Y-%m-%d %H:%M} UTC"}
                    for key, number, who, at in rows.fetchall()}  # fmt: skip
        return standing, Counter(kept for _, kept in found)

    # --- deciding ---------------------------------------------------------------------------------------------------

    def decide(
        self, action: str, sample_ids: Sequence[str], label: str | None, seen: Mapping[str, str]
    ) -> dict[str, object]:
        """`accept`, `clean`, `ood` or `relabel` to a label. What is not as it was seen is left alone, and told."""
        if len(sample_ids) > MOST_AT_ONCE:
            raise UsageError(f"{len(sample_ids):,} images are too many for one action: {MOST_AT_ONCE:,} at most.")
        with self._lock, manifest.held_to_change(self.run):
            if action == "accept":
                done = reviews.accept(self.run, sample_ids, self.who, seen=seen)
            else:
                verdict = {"relabel": "relabeled"}.get(action, action)
                done = reviews.decide(self.run, sample_ids, verdict, label, self.who, seen=seen)
            rows = self._some([*done.changed, *done.conflicts])
        self.taken += len(done.review_ids)
        return self._answer(done, rows)

    def undo(self, review_ids: Sequence[int] | None) -> dict[str, object]:
        """Take back these decisions, or those of this person's last action."""
        with self._lock, manifest.held_to_change(self.run):
            done = reviews.undo(self.run, self._last() if review_ids is None else review_ids)
            rows = self._some(done.changed)
        self.undone += len(done.review_ids)
        return self._answer(done, rows)

    def _last(self) -> list[int]:
        with manifest.attached(self.run) as con:
            mine = "undone_at IS NULL AND audit_id IS NULL AND who IS NOT DISTINCT FROM ?"
            rows = con.execute(f"SELECT review_id FROM reviews WHERE {mine} AND decided_at = (SELECT max(decided_at) "
                               f"FROM reviews WHERE {mine})", [self.who or None] * 2).fetchall()  # fmt: skip
        return [number for (number,) in rows]

    def _answer(self, done: Done, rows: list[dict[str, Any]]) -> dict[str, object]:
        self._acted = time.monotonic()
        return {"review_ids": done.review_ids, "conflicts": done.conflicts, "stamp": self.stamp(),
                "rows": rows, "generation": self.generation()}  # fmt: skip

    def history(self, most: int = 50) -> list[dict[str, Any]]:
        """The last actions of everybody, newest first."""
        with self._lock, manifest.attached(self.run) as con:
            rows = con.execute(f"SELECT {_ACTION}, count(*), list(review_id), min(path), min(label), min(verdict), "
                               "count(undone_at), count(DISTINCT coalesce(label, '')) FROM reviews "
                               f"GROUP BY {_ACTION} ORDER BY 1 DESC LIMIT {int(most)}").fetchall()  # fmt: skip
        return [{"at": f"{at:%Y-%m-%d %H:%M:%S} UTC", "who": who, "images": n, "review_ids": ids, "path": path,
                 "label": label if same == 1 else None, "verdict": verdict, "undone": undone == n,
                 "mixed": same > 1}
                for at, who, n, ids, path, label, verdict, undone, same in rows]  # fmt: skip

    # --- the file ---------------------------------------------------------------------------------------------------

    def attend(self, stop: threading.Event) -> None:
        """What is done beside answering, until `stop`: put in order what the page asks for first, while the browser
        starts; write DuckDB's log into the file when nobody has acted for a while, or for a moment where it has grown
        long, and at the end once more."""
        with suppress(CleanwebError):  # it will be told when it is asked for
            self.count(Question())
        while not stop.wait(_MOMENT_S):
            idle_s = 0.0 if self._acted is None else time.monotonic() - self._acted
            if idle_s > _IDLE_S or (idle_s > _MOMENT_S and self._log_bytes() > _LONG_LOG):
                self._settle()
        self._settle()

    def _log_bytes(self) -> int:
        try:
            return (self.run / "manifest.duckdb.wal").stat().st_size
        except OSError:
            return 0

    def _settle(self) -> None:
        self._acted = None
        try:
            with self._lock:
                manifest.settle(self.run)
        except CleanwebError:  # others have it open: nothing is lost, the log stays beside the file
            self._acted = time.monotonic()
