"""Files in object stores and on the web, through fsspec: s3://, gs://, hf://, https://.

Nothing is asked of the network unless an address is given. Every request is tried again some times, with longer and
longer waits, before it is an OSError. An address may hold no key: it is written into the manifest; credentials come
from where the store's own tools look for them (environment variables, their settings files).
"""

import html
import io
import logging
import os
import posixpath
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache, lru_cache, partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote

from cleanweb.errors import MachineError, UsageError
from cleanweb.records import MOST_BYTES, Status, Unread

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")

TRIES, FIRST_WAIT_S = 5, 0.5  # so that 7.5 s and a bit pass before something is given up
WINDOW_BYTES = 4 << 20  # what is fetched at once of a file that is read from its beginning to its end
AT_ONCE = 16  # single files
_ADDRESS = re.compile(r"(s3|s3a|gs|gcs|hf|https?)://", re.IGNORECASE)
_WEB = ("http://", "https://")
_TELL_KEYS = ("botocore", "aiobotocore", "s3fs", "gcsfs", "fsspec", "urllib3", "aiohttp", "asyncio", "google")


class NoParts(OSError):
    """A server that sends the whole of a file where a part of it is asked for."""


class TooLarge(OSError):
    """A file that is too large for an image."""


_NOT_AGAIN = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError, NoParts)


def is_address(place: object) -> bool:
    """Is this an address of one of these stores, and no path on this machine?"""
    return _ADDRESS.match(str(place)) is not None


def on_this_machine(path: Path) -> Path:
    """The path. Raises UsageError where an address was meant."""
    if isinstance(place(path), Remote):
        words = f"{place(path)}: this must lie on this machine. Write it here and copy it, or copy it here first."
        raise UsageError(words)
    return path


def place(text: "str | Path | Remote") -> "Path | Remote":
    """What a person gave, as a path or an address. A `Path` that was made of an address has lost a slash."""
    if isinstance(text, Remote):
        return text
    written = text.as_posix() if isinstance(text, Path) else text
    found = re.match(_ADDRESS.pattern.replace("//", "//?"), written, re.IGNORECASE)
    return Remote(f"{found[1]}://{written[found.end() :]}") if found else Path(text)


class Remote:
    """The address of a file or a folder, with what `Path` offers of it. Raises UsageError where it holds a key."""

    def __init__(self, address: str):
        scheme, _, rest = address.partition("://")
        if "@" in rest.partition("/")[0] or (scheme.lower().startswith("http") and "?" in rest):
            raise UsageError(
                f"An address that holds a password or a key (user:…@, ?…) is not taken, since it would be written into "
                f"the manifest: {scheme}://{re.sub('^[^/]*@', '…@', rest).partition('?')[0]}"
            )
        self.url = _one_spelling(f"{scheme.lower()}://{rest.strip('/')}")

    def __fspath__(self) -> str:
        return self.url

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"Remote({self.url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __truediv__(self, name: str) -> "Remote":
        return Remote(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        return posixpath.basename(self.url)

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "Remote":
        return Remote(posixpath.dirname(self.url))

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    def relative_to(self, folder: "Place") -> PurePosixPath:
        return PurePosixPath(below(self.url, str(folder)))

    def is_dir(self) -> bool:
        if self.url.startswith("http"):  # a web server does not tell files from folders
            return not re.fullmatch(r"\.[a-z]\w{1,6}", self.suffix.lower())
        return bool(listing(self.url).keys() - {self.url})

    def is_file(self) -> bool:
        return not self.is_dir() and self.exists()

    def exists(self) -> bool:
        if self.is_dir():
            return True
        try:
            size_of(self.url)
        except FileNotFoundError:
            return False
        return True

    def open(self, mode: str = "rb", encoding: str | None = None, newline: str | None = None) -> IO[Any]:
        """To read: bytes, or text where an encoding is given."""
        stream = io.BufferedReader(File(self.url), 1 << 16)
        return io.TextIOWrapper(stream, encoding, newline=newline) if encoding else stream

    def read_text(self, encoding: str) -> str:
        return fetch(self.url).decode(encoding)


Place = Path | Remote  # a file or a folder, here or elsewhere


# --- names on web servers -------------------------------------------------------------------------------------------

_AS_IT_IS = "/!$&'()*+,:;=@[]{}"  # what needs no % in a path; some of it makes patterns
_NO_UTF_8 = "surrogateescape"


def below(file: str, folder: str) -> str:
    """The path of a file below a folder, posix, as a person writes it: `red car/#1.png`, not `red%20car/%231.png`."""
    path = file[len(folder) :].replace(os.sep, "/").strip("/")
    return unquote(path, errors=_NO_UTF_8) if file.startswith(_WEB) else path


def spelled(path: str) -> str:
    """A path below a web server's folder as addresses spell it: what `below` undoes."""
    return quote(path, _AS_IT_IS, errors=_NO_UTF_8)


def _one_spelling(url: str) -> str:
    """An address that may be spelled in several ways (%c3%a9, é) in one of them; an object store has but one."""
    if not url.startswith(_WEB):
        return url
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}{slash}{spelled(unquote(path, errors=_NO_UTF_8))}"


def refuse_inside(out: Place, crawl: Place, option: str) -> None:
    """Raises UsageError where `out` is the crawl's folder or lies in it, among its own images; option: what it was
    given as."""
    if isinstance(out, Path) and isinstance(crawl, Path):
        inside = out.resolve().is_relative_to(crawl.resolve())
    else:
        inside = f"{out}/".startswith(f"{crawl}/")
    if inside:
        raise UsageError(f"{out} lies inside the crawl {crawl}, where nothing is written. Give another {option}.")


# --- single requests ------------------------------------------------------------------------------------------------


def patiently(url: str, ask: Callable[[], T], done: str = "read") -> T:
    """What `ask` gives, tried again where it fails; done: what it does to the file there. Raises OSError in words,
    FileNotFoundError where there is no such file."""
    for attempt in range(TRIES):
        try:
            return ask()
        except Exception as said:  # every store has a library with errors of its own
            error = _meant(said, url)
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError(2, "no such file", url) from None
            words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            if isinstance(error, _NOT_AGAIN) or _refused(error) or attempt == TRIES - 1:
                raise OSError(f"{url} cannot be {done} ({words})") from None
            time.sleep(FIRST_WAIT_S * 2**attempt * random.uniform(0.8, 1.2))  # noqa: S311 (no secret)
    raise AssertionError


def _meant(error: Exception, url: str) -> Exception:
    """fsspec calls a file of a web server missing whatever the server's fault is."""
    cause = error.__cause__
    if url.startswith("http") and isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        return error if getattr(cause, "status", None) in (404, 410) else cause
    return error


def _refused(error: Exception) -> bool:
    """Whether asking again is in vain: it is not allowed."""
    status = getattr(error, "status", None)  # of HTTP
    return "Credentials" in type(error).__name__ or (isinstance(status, int) and status in (400, 401, 403, 405, 410))


def fetch(url: str) -> bytes:
    """A whole file. Raises TooLarge where it has more bytes than an image may have: an answer need not end."""
    content = patiently(url, partial(_first, _store(url), url, MOST_BYTES + 1))
    if len(content) > MOST_BYTES:
        raise TooLarge(f"{url} is larger than {MOST_BYTES:,} bytes")
    return content


def _first(store: "AbstractFileSystem", url: str, n: int) -> bytes:
    """The first n bytes of a file, or all of it, in one request."""
    if url.startswith("http"):  # a web server need not serve parts, nor say a size
        with store.open(url, "rb", block_size=0, size=1) as answer:
            content = bytearray()
            while len(content) < n and (more := answer.read(min(n - len(content), WINDOW_BYTES))):
                content += more
            return bytes(content)
    try:
        first: bytes = store.cat_file(url, start=0, end=n)
    except Exception:  # an object store gives no part of nothing, each in its own words
        if store.info(url)["size"] == 0:
            return b""
        raise
    return first


def fetch_part(url: str, start: int, end: int) -> bytes:
    """The bytes from start to before end, which the file has."""

    def ask() -> bytes:
        part = _store(url).cat_file(url, start=start, end=end)
        if len(part) != end - start:
            raise NoParts(f"the server serves no parts: of {end - start:,} bytes it sent {len(part):,}")
        return part

    return patiently(url, ask)


def fetch_all(urls: Iterable[str]) -> Iterator[bytes | Unread]:
    """Whole files, in their order, some of them at once; why there is none, where there is none."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        urls = iter(urls)
        waiting = [pool.submit(_fetched, url) for url in islice(urls, 2 * AT_ONCE)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(_fetched, url) for url in islice(urls, 1)]


def _fetched(url: str) -> bytes | Unread:
    try:
        return fetch(url)
    except FileNotFoundError:
        return Unread(Status.MISSING, "no such file")
    except TooLarge as error:
        return Unread(Status.TOO_LARGE, str(error))
    except OSError as error:
        return Unread(Status.ERROR, str(error))


def size_of(url: str) -> int:
    """In bytes. Raises FileNotFoundError, or OSError in words."""
    size = patiently(url, lambda: _store(url).info(url))["size"]
    if size is None:
        raise OSError(f"{url} cannot be read in parts: the server does not say its size")
    return int(size)


@lru_cache(maxsize=4)
def listing(folder: str) -> dict[str, int]:
    """The addresses of all files below a folder, and their sizes; none where there is no such folder.

    A name that ends in a slash stands for a folder (the consoles of the stores make empty files of such names); on a
    web server one with a ? or a # leads to a list of the folder in another order.
    """
    store = _store(folder)

    def ask() -> dict[str, Any]:
        store.invalidate_cache()
        found: dict[str, Any] = store.find(f"{folder}/" if folder.startswith("http") else folder, detail=True)
        return found

    try:
        found = patiently(folder, ask)
    except FileNotFoundError:
        return {}
    scheme = folder.partition("://")[0]
    if folder.startswith(_WEB):
        links = ((html.unescape(link), entry) for link, entry in found.items())
        found = {_one_spelling(link): entry for link, entry in links if not re.search("[?#]", link)}
    names = {name if "://" in name else f"{scheme}://{name}": entry for name, entry in found.items()
             if not name.endswith("/")}  # fmt: skip
    return {name: entry.get("size") or 0 for name, entry in sorted(names.items())
            if name == folder or name.startswith(f"{folder}/")}  # fmt: skip


@cache
def _store_of(scheme: str) -> "AbstractFileSystem":
    for name in _TELL_KEYS:  # what their libraries log may hold keys
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        import fsspec

        return fsspec.filesystem(scheme)
    except ImportError as error:
        raise MachineError(
            f'{scheme}:// needs a library that is not installed ({error}): pip install "cleanweb-data[remote]"'
        ) from None


def _store(url: str) -> "AbstractFileSystem":
    return _store_of(url.partition("://")[0])


# --- files that are read in parts -----------------------------------------------------------------------------------


class File(io.RawIOBase):
    """A file that can be read at any place; `ahead` bytes are fetched at once. Raises OSError."""

    def __init__(self, url: str, ahead: int = WINDOW_BYTES):
        self.url, self.ahead, self.size = url, ahead, size_of(url)
        self._at, self._start, self._part = 0, 0, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def readinto(self, into: Any) -> int:
        wanted = max(0, min(len(into), self.size - self._at))
        if not (self._start <= self._at and self._at + wanted <= self._start + len(self._part)):
            end = min(self.size, self._at + max(wanted, self.ahead))
            self._part = fetch_part(self.url, self._at, end) if wanted else b""
            self._start = self._at
        first = self._at - self._start
        into[:wanted] = self._part[first : first + wanted]
        self._at += wanted
        return wanted


def bridge() -> "AbstractFileSystem":
    """What lets DuckDB read these addresses, as patiently as all others do."""
    from fsspec import AbstractFileSystem

    class Bridge(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
        protocol = ("s3", "s3a", "gs", "gcs", "hf", "http", "https")
        cachable = False

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path

        def glob(self, path: str, **_: Any) -> list[str]:
            return [re.sub(r"\[([\[*?])\]", r"\1", path)]  # names, as `parquetfile` writes them

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            return {"name": path, "size": size_of(path), "type": "file"}

        def _open(self, path: str, mode: str = "rb", **_: Any) -> IO[Any]:
            return Remote(path).open(mode)

        def modified(self, path: str) -> datetime:
            return datetime.fromtimestamp(0, UTC)

    return Bridge()


# --- writing --------------------------------------------------------------------------------------------------------


def upload(folder: Path, url: str) -> int:
    """Copy a local file, or the files of a folder, to an address; gives how many. Raises MachineError."""
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    for file in files:
        to = url if file == folder else f"{url}/{file.relative_to(folder).as_posix()}"
        try:
            patiently(to, partial(_store(to).put_file, str(file), to), "written")
        except OSError as error:
            raise MachineError(f"{file} cannot be copied: {error}") from None
    return len(files)
