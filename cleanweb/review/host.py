"""Serve a page on this machine, to the one who has its address, until interrupted."""

import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from cleanweb.errors import MachineError, UsageError

if TYPE_CHECKING:
    from cleanweb.review.guard import Guard

MISSING = "A page needs packages that are not installed ({0}): pip install 'cleanweb-data[review]'"


@contextmanager
def needed_packages() -> Iterator[None]:
    """Raises MachineError, which says what to install, where an import fails."""
    try:
        yield
    except ImportError as error:
        raise MachineError(MISSING.format(error.name)) from error


def host(application: "Callable[[str, int], Guard]", port: int, ready: Callable[[str], None]) -> None:
    """Serve application(token, port) until interrupted; ready(address) is called when it can be opened. port 0: any.

    Raises MachineError where packages or the port are not to be had.
    """
    with needed_packages():
        import uvicorn
    token = secrets.token_urlsafe(24)
    with _listening(port) as listener:
        port = listener.getsockname()[1]
        config = uvicorn.Config(application(token, port), log_level="error", access_log=False, lifespan="off",
                                server_header=False, timeout_graceful_shutdown=2, ws="none")  # fmt: skip
        ready(f"http://127.0.0.1:{port}/?token={token}")
        with suppress(KeyboardInterrupt):  # how it ends
            uvicorn.Server(config).run(sockets=[listener])


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
