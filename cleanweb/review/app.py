"""What the server answers: the page, its files, JSON, pictures.

GET  /                the page                      GET  /static/…      its style and scripts
GET  /api/about       the run, its classes          GET  /api/stamp     has anything changed?
POST /api/count       question → how many           POST /api/page      question, begin, end → rows
POST /api/decide      action, ids, label, seen      POST /api/undo      review_ids, or the last action
GET  /api/history     the last actions              GET  /picture       ?id=…&size=small|large → JPEG
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route

from cleanweb.review.guard import Guard
from cleanweb.review.replies import files_of, json_of, pictures_of
from cleanweb.review.store import Question, Store


def application(store: Store, token: str, port: int) -> Guard:
    """The page of one run, guarded."""
    asks: dict[str, Callable[[dict[str, Any]], object]] = {
        "about": lambda _: store.about(),
        "stamp": lambda _: {"stamp": store.stamp(), "generation": store.generation()},
        "history": lambda _: store.history(),
        "count": lambda body: store.count(_question(body)),
        "page": lambda body: store.page(_question(body), _whole(body, "begin"), _whole(body, "end")),
        "decide": lambda body: store.decide(
            _text(body, "action"), _texts(body.get("ids")), body.get("label"), _marks(body.get("seen"))
        ),
        "undo": lambda body: store.undo(_numbers(body.get("review_ids"))),
    }
    gets = ("about", "stamp", "history")
    page = files_of("cleanweb.review")
    routes = [  # what is no coroutine runs in a thread
        Route("/", page),
        Route("/static/{name}", page),
        Route("/picture", pictures_of(lambda request: store.file(request.query_params.get("id", "")))),
        *(Route(f"/api/{name}", json_of(ask), methods=["GET" if name in gets else "POST"])
          for name, ask in asks.items()),
    ]  # fmt: skip
    return Guard(Starlette(routes=routes), token, port)


# --- what requests hold ---------------------------------------------------------------------------------------------


def _question(body: dict[str, Any]) -> Question:
    asked = body.get("question") or {}
    unknown = set(asked) - {field.name for field in fields(Question)}
    if unknown:
        raise ValueError(f"unknown: {', '.join(sorted(map(str, unknown)))}")
    lists = {name: tuple(_texts(asked.get(name) or [])) for name in ("verdicts", "labels")}
    where, sort = asked.get("where") or "", asked.get("sort") or "uncertain"
    if not isinstance(where, str) or not isinstance(sort, str):
        raise TypeError("where and sort are texts")
    return Question(**lists, needs_review=asked.get("needs_review"), reviewed=asked.get("reviewed"),
                    copies=bool(asked.get("copies")), where=where, sort=sort)  # fmt: skip


def _text(body: dict[str, Any], name: str) -> str:
    if not isinstance(body.get(name), str):
        raise TypeError(f"{name} is no text")
    return body[name]


def _whole(body: dict[str, Any], name: str) -> int:
    value = body.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{name} is no number")
    return value


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError("not a list of texts")
    return value


def _numbers(value: object) -> list[int] | None:
    if value is not None and not (isinstance(value, list) and all(type(item) is int for item in value)):
        raise TypeError("not a list of numbers")
    return value


def _marks(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(mark, str) for mark in value.values()):
        raise TypeError("seen: what was seen of each image is not told")
    return value
