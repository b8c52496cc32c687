"""Start the server of the page, and end it with a word on what was done."""

import secrets
import shlex
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cleanweb import manifest
from cleanweb.errors import MachineError, UsageError
from cleanweb.review.store import Store

MISSING = "cleanweb review needs packages that are not installed ({0}): pip install 'cleanweb-data[review]'"


@dataclass(frozen=True, slots=True)
class Ended:
    """What was done while the page was open."""

    taken: int
    undone: int

    def lines(self, run: Path) -> list[str]:
        option = "" if str(run) == "cleanweb-run" else f" --run {shlex.quote(str(run))}"
        if not self.taken and not self.undone:
            return ["No decisions were taken."]
        undone = f" and {self.undone:,} taken back" * bool(self.undone)
        return [
            f"{self.taken:,} decisions taken{undone}. They are in the manifest: export and sql heed them already.",
            "manifest.csv, manifest.parquet and the report are as before, until you run",
            f"  cleanweb retag{option}     which judges the other images anew, by these, too",
            f"  cleanweb export{option}",
        ]


def serve(run: Path, who: str, port: int, ready: Callable[[str], None]) -> Ended:
    """Serve the page of a finished run until interrupted; ready(address) is called when it can be opened.

    Raises RunError where there is no run or others keep it open, MachineError where packages or the port are missing.
    """
    try:
        import uvicorn

        from cleanweb.review.app import application
    except ImportError as error:
        raise MachineError(MISSING.format(error.name)) from error
    with manifest.changing(run):  # it is there, can be changed, and is of this version from now on
        pass
    store, token = Store(run, who), secrets.token_urlsafe(24)
    with _listening(port) as listener:
        port = listener.getsockname()[1]
        config = uvicorn.Config(application(store, token, port), log_level="error", access_log=False, lifespan="off",
                                server_header=False, timeout_graceful_shutdown=2, ws="none")  # fmt: skip
        stop = threading.Event()
        idle = threading.Thread(target=store.settle_when_idle, args=(stop,), daemon=True)
        idle.start()
        ready(f"http://127.0.0.1:{port}/?token={token}")
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:  # how it ends
            pass
        finally:
            stop.set()
            idle.join(timeout=30)
    return Ended(store.taken, store.undone)


def _listening(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(64)  # from now on who connects waits for an answer
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OverflowError):
            raise UsageError(f"There is no port {port}.") from None
        raise MachineError(f"Port {port} is not to be had ({error.strerror}). Give another --port, or none.") from error
    return listener
