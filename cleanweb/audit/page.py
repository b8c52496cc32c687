"""The page on which a person judges the drawn pictures, one at a time, without seeing verdicts, labels or paths.

    GET  /               the page                     GET  /static/…       its style and script
    GET  /api/audit      what is asked, and answered  POST /api/answer     some of them
    GET  /api/statement  what it says so far          GET  /picture        ?position=…&size=large → JPEG

What is asked holds nothing that betrays a verdict: pictures go by their place in the order, and of labels there are but
the two offered, in alphabetical order.
"""

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from cleanweb import audit, manifest
from cleanweb.audit import Answer, answers
from cleanweb.audit.statement import CLASS, NONE, UNSURE, findings
from cleanweb.review.guard import Guard
from cleanweb.review.pictures import Source
from cleanweb.review.replies import files_of, json_of, pictures_of

_FILES = """SELECT position, file, row_in_file, status, error FROM audits JOIN images USING (sample_id)
    WHERE audit_id = ?"""


class Asking:
    """One audit, as the page sees it. Safe to call from several threads."""

    def __init__(self, run: Path, audit_id: int, who: str):
        self.run, self.audit_id, self.who = run, audit_id, who
        self.lock = Lock()
        self.ids = audit.state(run, audit_id).rows["sample_id"].tolist()
        with manifest.attached(run) as con:
            self.classes = [label for (label,) in con.execute("SELECT label FROM classes ORDER BY label").fetchall()]
            self.files = {place: (file, row, status, error) for place, file, row, status, error
                          in con.execute(_FILES, [audit_id]).fetchall()}  # fmt: skip

    def asked(self) -> dict[str, object]:
        """What is asked, and what has been answered so far."""
        with self.lock:  # after what is being stored
            rows = audit.state(self.run, self.audit_id).rows
        columns = rows[["offered_first", "offered_second", "answer", "shown_label"]].astype(object)
        pictures = [dict(zip(("first", "second", "answer", "label"), row, strict=True))
                    for row in columns.where(columns.notna(), None).itertuples(index=False)]  # fmt: skip
        return {"run": str(self.run), "audit_id": self.audit_id, "classes": self.classes, "pictures": pictures}

    def answer(self, body: dict[str, Any]) -> dict[str, object]:
        """answers: a list of {position, answer (null: taken back), label of a class}. Raises UsageError, ValueError."""
        given = body.get("answers")
        if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
            raise ValueError("not a list of answers")
        told = dict(self._answer(one) for one in given)
        with self.lock:
            answers.answer(self.run, self.audit_id, told, self.who)
        return {"stored": len(told)}

    def _answer(self, one: dict[str, Any]) -> tuple[str, Answer | None]:
        position, kind, label = one.get("position"), one.get("answer"), one.get("label")
        if type(position) is not int or not 0 <= position < len(self.ids):
            raise ValueError("there is no such picture")
        if kind not in (CLASS, NONE, UNSURE, None) or (kind == CLASS) != isinstance(label, str):
            raise ValueError("an answer is class with a label, none, unsure, or null")
        return self.ids[position], None if kind is None else Answer(kind, label)

    def file(self, position: str) -> Source | None:
        """Where the image asked at that place is; None where nothing is."""
        return self.files.get(int(position)) if position.isdecimal() and len(position) < 10 else None

    def statement(self) -> dict[str, object]:
        """What it says so far."""
        found = audit.state(self.run, self.audit_id)
        shares = [{"title": f.title, "line": f.line()} | f.to_json() for f in findings(found.rows)]
        return {"head": found.head(), "findings": shares, "caveats": found.caveats()}


def application(asking: Asking, token: str, port: int) -> Guard:
    """The page of one audit, guarded."""
    asks: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
        "audit": ("GET", lambda _: asking.asked()),
        "statement": ("GET", lambda _: asking.statement()),
        "answer": ("POST", asking.answer),
    }
    page = files_of("cleanweb.audit")
    routes = [
        Route("/", page),
        Route("/static/{name}", page),
        Route("/favicon.ico", lambda _: Response(status_code=204)),
        Route("/picture", pictures_of(lambda request: asking.file(request.query_params.get("position", "")))),
        *(Route(f"/api/{name}", json_of(ask), methods=[method]) for name, (method, ask) in asks.items()),
    ]
    return Guard(Starlette(routes=routes), token, port)
