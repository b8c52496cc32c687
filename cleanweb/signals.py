"""How a command ends that is told to: Ctrl-C and SIGTERM stop it, and a second of either ends it at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM has come."""

    def __init__(self, number: int):
        super().__init__()
        self.exit_code = 128 + number  # 130, 143: what a shell says of them


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise Stopped where SIGINT or SIGTERM comes; what is on the disk by then is what the next run goes on from.

    Nothing changes in a thread other than the main one, which signals do not reach.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopping = False

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal stopping
        if stopping:
            os._exit(128 + number)  # worker processes end with this one
        stopping = True
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
