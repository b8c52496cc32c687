"""Who may talk to the page: the browser of the person who started it, and no other page, program or machine.

The server listens on 127.0.0.1 alone. Who opens it must know a random token, which becomes a cookie at the first visit.
A page of another origin can neither read (Host: DNS rebinding; Sec-Fetch-Site, and the cookie is SameSite=Strict) nor
write (Origin, and JSON alone is taken).
"""

import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 4 << 20  # in a request
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src "
    "'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """ASGI middleware around the page. port: where it is served."""

    def __init__(self, app: ASGIApp, token: str, port: int):
        self.app, self.token = app, token
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self.cookie = f"cleanweb-review-{port}"  # a cookie knows no port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        if scope["type"] != "http":  # no web sockets
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = self._refusal(scope) or self._entrance(scope) or self._stranger(scope)
        await (answer or self.app)(scope, receive, sending)

    def _refusal(self, scope: Scope) -> Response | None:
        """What no browser sends that shows this page."""
        headers, method = Headers(scope=scope), scope["method"]
        if headers.get("host", "") not in self.hosts:
            return PlainTextResponse("Another host.", 403)
        if method not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("No such method.", 405)
        site = headers.get("sec-fetch-site", "none")
        if site not in ("same-origin", "none"):
            return PlainTextResponse("Asked for by another page.", 403)
        if method == "POST":
            if headers.get("origin") != f"http://{headers['host']}":
                return PlainTextResponse("Sent by another page.", 403)
            if headers.get("content-type", "").split(";")[0].strip() != "application/json":
                return PlainTextResponse("JSON alone is taken.", 415)
            size = headers.get("content-length", "")
            if not size.isdecimal() or int(size) > MOST_BYTES:
                return PlainTextResponse("Too much, or of unknown size.", 413)
        return None

    def _entrance(self, scope: Scope) -> Response | None:
        """The first visit, with the token in the address: it becomes a cookie and leaves the address."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["method"] != "GET" or scope["path"] != "/" or not self._is_token(given):
            return None
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", path="/")
        return answer

    def _stranger(self, scope: Scope) -> Response | None:
        try:
            cookies = SimpleCookie(Headers(scope=scope).get("cookie", ""))
        except CookieError:
            cookies = SimpleCookie()
        if self.cookie in cookies and self._is_token(cookies[self.cookie].value):
            return None
        return PlainTextResponse("Open the address that cleanweb review has printed, with its token.", 401)

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self.token.encode())
