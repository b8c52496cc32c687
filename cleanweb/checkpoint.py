"""What a run goes on from, on disk: each file with its checksum, and with the one before it, should it be damaged."""

import hashlib
import io
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from cleanweb import atomic
from cleanweb.errors import RunError

_DIGEST_BYTES = 16

log = logging.getLogger(__name__)


def write(file: Path, content: bytes | memoryview) -> None:
    """Keep `content`; what `file` held is kept too, as <name>.before. Raises MachineError where the disk refuses."""
    with atomic.writing(file) as draft:
        with draft.open("xb") as stream:
            stream.write(_digest(content))
            stream.write(content)
        atomic.sync(draft)
        if file.exists():
            os.replace(file, _before(file))  # noqa: PTH105 - atomic.py's name for it


def read(file: Path) -> memoryview | None:
    """What `write` kept last; where that is damaged, what it kept before; None where neither is whole."""
    for stored in (file, _before(file)):
        try:
            content = memoryview(stored.read_bytes())
        except FileNotFoundError:
            continue
        digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if digest == _digest(content):
            return content
        log.warning("%s is damaged and is left aside: going on from what was stored before it.", stored)
    return None


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """`write`, of named arrays."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy takes any name for `allow_pickle`
    write(file, buffer.getbuffer())


def read_arrays(file: Path) -> dict[str, np.ndarray] | None:
    """`read`, of named arrays. Raises RunError where it is something else."""
    stored = read(file)
    if stored is None:
        return None
    try:
        with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # zipfile and numpy raise whatever their parsers raise
        raise RunError(
            f"{file} cannot be read: it is of another version of cleanweb. Start again with --fresh."
        ) from error


def once(file: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays that `make` gives: made once, kept in `file`, and read from there by a run that goes on."""
    arrays = read_arrays(file)
    if arrays is None:
        arrays = make()
        write_arrays(file, arrays)
    return arrays


def _before(file: Path) -> Path:
    return file.with_name(f"{file.name}.before")


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
