"""A web server on this machine that serves parts of files, and fails as it is told to."""

import http.server
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path


class Server(http.server.ThreadingHTTPServer):
    """Serves the files of a folder. asked: how often each path was; failing: path → how often it fails yet, and with
    which status; moved: path → where it sends to; parts: whether it serves parts of files."""

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.asked: Counter[str] = Counter()
        self.sent = 0
        self.failing: dict[str, tuple[int, int]] = {}
        self.moved: dict[str, str] = {}
        self.parts = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.SimpleHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        if not self._fails():
            super().do_HEAD()

    def do_GET(self) -> None:
        if self._fails():
            return
        file, asked = Path(self.translate_path(self.path)), self.headers.get("Range")
        if not (asked and self.server.parts and file.is_file()):
            super().do_GET()
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        content = file.read_bytes()
        part = content[int(first) : int(last) + 1 if last else None]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.server.sent += len(part)
        self.wfile.write(part)

    def _fails(self) -> bool:
        self.server.asked[self.path] += 1
        if self.path in self.server.moved:
            self.send_response(302)
            self.send_header("Location", self.server.moved[self.path])
            self.end_headers()
            return True
        left, status = self.server.failing.get(self.path, (0, 0))
        if left:
            self.server.failing[self.path] = (left - 1, status)
            self.send_error(status)
        return left > 0


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
