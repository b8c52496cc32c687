"""Open the page of a run, and end it with a word on what was done."""

import shlex
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cleanweb import manifest
from cleanweb.review.host import host, needed_packages
from cleanweb.review.store import Store


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
    with needed_packages():
        from cleanweb.review.app import application
    with manifest.changing(run):  # it is there, can be changed, and is of this version from now on
        pass
    store, stop = Store(run, who), threading.Event()
    beside = threading.Thread(target=store.attend, args=(stop,), daemon=True)
    beside.start()
    try:
        host(partial(application, store), port, ready)
    finally:
        stop.set()
        beside.join(timeout=30)
    return Ended(store.taken, store.undone)
