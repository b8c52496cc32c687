"""How a page answers: JSON, its own files, pictures.

An error is JSON, too: {"error": words}, with 400 for what is asked wrongly, 404 for a picture that is none, 409 where
the run does not allow it now.
"""

import json
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cleanweb.errors import CleanwebError, UsageError
from cleanweb.review.pictures import SIDES_PX, NoPicture, Pictures, Source

_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def json_of(ask: Callable[[dict[str, Any]], object]) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that answers what `ask` gives for a request's JSON object; for GET it is empty."""

    async def reply(request: Request) -> Response:
        try:
            body = json.loads(await request.body() or b"{}") if request.method == "POST" else {}
            if not isinstance(body, dict):
                raise UsageError("Not a JSON object.")
            return JSONResponse(await run_in_threadpool(ask, body))
        except UsageError as error:
            return _error(error, 400)
        except (CleanwebError, OSError) as error:
            return _error(error, 409)
        except (ValueError, TypeError, RecursionError) as error:
            return _error(f"Not a request this page makes: {error}", 400)

    return reply


def files_of(package: str) -> Callable[[Request], Response]:
    """An endpoint for the files in a package's folder `static`; without a name it is the page."""
    there = files(package).joinpath("static").iterdir()
    known = {  # read once: nothing but these can be asked for
        file.name: (file.read_bytes(), kind) for file in there if (kind := _KINDS.get(PurePath(file.name).suffix))
    }

    def reply(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in known:
            return Response("No such file.", 404, media_type="text/plain")
        content, kind = known[name]
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return reply


def pictures_of(find: Callable[[Request], Source | None]) -> Callable[[Request], Response]:
    """An endpoint for pictures, small or large. find: where the image is that a request names, None where it names
    none."""
    pictures = Pictures()

    def reply(request: Request) -> Response:
        size = request.query_params.get("size", "small")
        try:
            found = find(request)
            if found is None or size not in SIDES_PX:
                return _error("There is no such picture.", 404)
            tag = pictures.tag(*found, size)
            headers = {"ETag": f'"{tag}"', "Cache-Control": "private, max-age=60"}
            if request.headers.get("if-none-match") == headers["ETag"]:
                return Response(status_code=304, headers=headers)
            assert found[0] is not None, "tag has seen to it"
            return Response(pictures.jpeg(tag, found[0], found[1], size), media_type="image/jpeg", headers=headers)
        except NoPicture as problem:
            return _error(problem, 404)
        except CleanwebError as problem:
            return _error(problem, 409)

    return reply


def _error(words: object, status: int) -> Response:
    return JSONResponse({"error": str(words)}, status)
