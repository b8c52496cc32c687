"""What a run goes on from, on disk: each file with its checksum, and with the one before it, should it be damaged."""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from cleanweb import atomic, scratch
from cleanweb.errors import RunError

_DIGEST_BYTES = 16
_AT_ONCE = 2**20  # bytes

log = logging.getLogger(__name__)


def write(file: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Keep what `fill` puts into the stream, which need not be in memory as a whole; what `file` held is kept too, as
    <name>.before. Raises MachineError where the disk refuses."""
    with atomic.writing(file) as draft:
        with draft.open("x+b") as stream:
            stream.write(bytes(_DIGEST_BYTES))
            try:
                fill(stream)
            except RuntimeError as error:  # so torch says that the disk has refused
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            digest = _digest(stream)
            stream.seek(0)
            stream.write(digest)
        atomic.sync(draft)
        if file.exists():
            os.replace(file, _before(file))  # noqa: PTH105 - atomic.py's name for it


def read(file: Path) -> memoryview | None:
    """What `write` kept last; where that is damaged, what it kept before; None where neither is whole."""
    whole = _whole(file)
    return None if whole is None else memoryview(whole.read_bytes())[_DIGEST_BYTES:]


def _whole(file: Path) -> Path | None:
    """The file, or else the one before it, that is as it was written."""
    for stored in (file, _before(file)):
        try:
            with stored.open("rb") as stream:
                if stream.read(_DIGEST_BYTES) == _digest(stream):
                    return stored
        except FileNotFoundError:
            continue
        log.warning("%s is damaged and is left aside: going on from what was stored before it.", stored)
    return None


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """`write`, of named arrays."""
    write(file, lambda stream: np.savez(stream, **arrays))  # type: ignore[arg-type]  # any name for `allow_pickle`


def read_arrays(file: Path) -> dict[str, np.ndarray] | None:
    """`read`, of named arrays. Raises RunError where it is something else."""
    stored = _whole(file)
    if stored is None:
        return None
    try:
        with stored.open("rb") as stream:
            return scratch.load(stream)
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


def _digest(stream: IO[bytes]) -> bytes:
    """Of what follows its own place."""
    stream.seek(_DIGEST_BYTES)
    found = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    while chunk := stream.read(_AT_ONCE):
        found.update(chunk)
    return found.digest()
