"""Images put into an exported folder: copied, linked, or written from their bytes. Nothing that is there is touched."""

import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from cleanweb.atomic import FULL
from cleanweb.errors import UsageError
from cleanweb.safenames import numbered

log = logging.getLogger(__name__)


def put(content: Path | bytes, target: Path, link: str) -> bool:
    """Put an image, a file or its bytes, at `target`; False where it cannot be read. link: one of `settings.LINKS`.

    Raises FileExistsError where anything stands at `target`, UsageError where a link cannot be made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        with target.open("xb") as stream:
            stream.write(content)
        return True
    return _copy(content, target) if link == "copy" else _link(content, target, link)


def read(content: Path | bytes) -> bytes | None:
    """The image's bytes; None where it cannot be read."""
    if isinstance(content, bytes):
        return content
    try:
        return content.read_bytes()
    except OSError as error:
        log.info("%s: %s", content, error)
        return None


def _copy(source: Path, target: Path) -> bool:
    with target.open("xb") as stream:  # x: never through a link that somebody has put there
        try:
            with source.open("rb") as origin:
                shutil.copyfileobj(origin, stream, 1 << 20)
        except OSError as error:
            if error.errno in FULL:  # not the image's fault
                raise
            log.info("%s: %s", source, error)
        else:
            return True
    target.unlink()
    return False


def _link(source: Path, target: Path, link: str) -> bool:
    try:
        if link == "symlink":
            target.symlink_to(source)
        else:
            target.hardlink_to(source.resolve())  # a hard link to a symbolic link would be one too
    except FileExistsError:
        raise
    except OSError as error:
        raise UsageError(f"cannot {link} {source} into the export ({error.strerror}); use --link copy") from error
    return True


def beside(readable: Iterable[tuple[int, Path | bytes]], root: Path, formats: Sequence[str | None]) -> dict[int, str]:
    """Where each image is, for formats that point at files: an image's own file, absolute, or `images/…` below `root`,
    where it is written if it comes as bytes. formats: of each image, as decoded."""
    places = {}
    for i, content in readable:
        if isinstance(content, bytes):
            places[i] = f"images/{numbered(i, formats[i])}"
            put(content, root / places[i], "copy")
        else:
            places[i] = content.absolute().as_posix()
    return places
