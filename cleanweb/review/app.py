"""What the server answers: the page, its files, JSON, pictures.

    GET  /                the page                      GET  /static/…      its style and scripts
    GET  /api/about       the run, its classes          GET  /api/stamp     has anything changed?
    POST /api/count       question → how many           POST /api/page      question, begin, end → rows
    POST /api/decide      action, ids, label, seen      POST /api/undo      review_ids, or the last action
    GET  /api/history     the last actions              GET  /picture       ?id=…&size=small|large → JPEG

An error is JSON too: {"error": words}, with 400 for what is asked wrongly, 409 where the run does not allow it now.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import fields
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cleanweb.errors import CleanwebError, UsageError
from cleanweb.review.guard import Guard
from cleanweb.review.pictures import SIDES_PX, NoPicture, Pictures
from cleanweb.review.store import Question, Store

_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_STATIC = {  # read once: nothing but these files can be asked for
    file.name: file.read_bytes()
    for file in files("cleanweb.review").joinpath("static").iterdir()
    if any(file.name.endswith(kind) for kind in _KINDS)
}


Endpoint = Callable[[Request], Awaitable[Response]]


def application(store: Store, token: str, port: int) -> Guard:
    """The page of one run, guarded."""
    pictures = Pictures()
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
    routes = [  # what is no coroutine runs in a thread
        Route("/", lambda _: _file("index.html")),
        Route("/static/{name}", lambda request: _file(request.path_params["name"])),
        Route("/picture", lambda request: _picture(store, pictures, request)),
        *(Route(f"/api/{name}", _json(ask), methods=["GET" if name in gets else "POST"]) for name, ask in asks.items()),
    ]
    return Guard(Starlette(routes=routes), token, port)


def _json(ask: Callable[[dict[str, Any]], object]) -> Endpoint:
    async def answer(request: Request) -> Response:
        try:
            body = json.loads(await request.body() or b"{}") if request.method == "POST" else {}
            if not isinstance(body, dict):
                raise UsageError("Not a JSON object.")
            return JSONResponse(await run_in_threadpool(ask, body))
        except UsageError as error:
            return JSONResponse({"error": str(error)}, 400)
        except (CleanwebError, OSError) as error:
            return JSONResponse({"error": str(error)}, 409)
        except (ValueError, TypeError, RecursionError) as error:
            return JSONResponse({"error": f"Not a request this page makes: {error}"}, 400)

    return answer


def _file(name: str) -> Response:
    if name not in _STATIC:
        return Response("No such file.", 404, media_type="text/plain")
    kind = _KINDS["." + name.rsplit(".", 1)[1]]
    return Response(_STATIC[name], media_type=kind, headers={"Cache-Control": "no-cache"})


def _picture(store: Store, pictures: Pictures, request: Request) -> Response:
    sample_id, size = request.query_params.get("id", ""), request.query_params.get("size", "small")
    try:
        found = store.file(sample_id)
        if found is None or size not in SIDES_PX:
            return JSONResponse({"error": "There is no such picture."}, 404)
        tag = pictures.tag(*found, size)
        headers = {"ETag": f'"{tag}"', "Cache-Control": "private, max-age=60"}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        assert found[0] is not None, "tag has seen to it"
        return Response(pictures.jpeg(tag, found[0], found[1], size), media_type="image/jpeg", headers=headers)
    except NoPicture as problem:
        return JSONResponse({"error": str(problem)}, 404)
    except CleanwebError as error:
        return JSONResponse({"error": str(error)}, 409)


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
