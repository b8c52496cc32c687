"""Which file a path of a table means: on this machine, or in an object store."""

import os
import posixpath
import unicodedata
from functools import cache, lru_cache

from cleanweb import remote
from cleanweb.errors import UsageError
from cleanweb.readers import Place, border, printable, within
from cleanweb.remote import Remote, is_address


def finder(root: Place, beside: Place, allow_outside: bool, absolute: bool = False) -> "Finder | FarFinder":
    """One for the paths of a table in the folder `beside`, of images in the crawl folder `root`. absolute: files named
    by an absolute path may lie anywhere."""
    if isinstance(root, Remote):
        return FarFinder(root, beside, allow_outside)
    return Finder(os.fspath(root), os.fspath(beside), border(root, allow_outside), absolute)


class Finder:
    """Which file a path of a table means: relative to the crawl folder, else to the table's; or absolute."""

    def __init__(self, root: str, beside: str, edge: str | None, absolute: bool):
        """edge: see `readers.border`."""
        self.root, self.edge, self.absolute = root, edge, absolute
        self.bases = list(dict.fromkeys((root, beside)))
        self.nowhere = f"no such file in {' or '.join(self.bases)}"
        self.real = cache(os.path.realpath)

    def find(self, text: str) -> str | None:
        """The file, absolute; None where there is none."""
        if not text.strip():
            return None
        spellings = dict.fromkeys((text, text.strip(), text.replace("\\", "/")))
        for respell in (lambda file: file, _as_on_disk):
            for spelling in spellings:
                for base in self.bases:
                    file = respell(os.path.normpath(os.path.join(base, spelling)))  # noqa: PTH118
                    if file and os.path.isfile(file):  # noqa: PTH113
                        return self._inside(file)
        return None

    def _inside(self, file: str) -> str:
        """The file by its path through the crawl folder, if it lies there: that may be written in other ways."""
        if not file.startswith(self.root + os.sep):
            folder, name = os.path.split(file)
            real, root = self.real(folder), self.real(self.root)
            if real == root or real.startswith(root + os.sep):
                return os.path.normpath(os.path.join(self.root, os.path.relpath(real, root), name))  # noqa: PTH118
        return file

    def beyond(self, file: str, written: str) -> str | None:
        """Where the file really is, if that is outside the crawl folder and may not be."""
        if self.edge is None or (self.absolute and os.path.isabs(written.strip())):  # noqa: PTH117
            return None
        folder, name = os.path.split(file)
        link = os.path.islink(file)  # noqa: PTH114
        real = os.path.realpath(file) if link else os.path.join(self.real(folder), name)  # noqa: PTH118
        return None if within(real, self.edge) else real

    def relative(self, file: str) -> str:
        inside = file.startswith(self.root + os.sep)
        return printable(file[len(self.root) + 1 :] if inside else file).replace(os.sep, "/")


def _as_on_disk(file: str) -> str | None:
    """The existing spelling of a path whose accents are composed in another way (é may be one letter or two)."""
    if file.isascii():
        return None
    folder, name = os.path.split(file)
    if folder == file:
        return file
    there = folder if os.path.isdir(folder) else _as_on_disk(folder)  # noqa: PTH112
    real = there and _names(there).get(unicodedata.normalize("NFC", name))
    return os.path.join(there, real) if there and real else None  # noqa: PTH118


@lru_cache(maxsize=256)
def _names(folder: str) -> dict[str, str]:
    return {unicodedata.normalize("NFC", name): name for name in os.listdir(folder)}  # noqa: PTH208


class FarFinder:
    """The address that a path means: relative to the crawl folder's, else to the table's. No other host is asked."""

    def __init__(self, root: Remote, beside: Place, allow_outside: bool):
        self.root, self.allow_outside = root.url, allow_outside
        self.bases = list(dict.fromkeys((root.url, *([beside.url] if isinstance(beside, Remote) else []))))
        self.nowhere = f"no such file in {' or '.join(self.bases)}"
        # what a web server holds is not known; a row whose file is not there says so when it is read
        self.known = (
            None if root.url.startswith("http") else {name for base in self.bases for name in remote.listing(base)}
        )

    def find(self, text: str) -> str | None:
        """The address; None where there is none."""
        written = text.strip().replace("\\", "/")
        if not written:
            return None
        found = [_joined(base, written) for base in self.bases]
        inside = [url for url in found if self._inside(url)]
        if not inside:
            return found[0]
        return next((url for url in inside if self.known is None or url in self.known), None)

    def beyond(self, file: str, written: str) -> str | None:
        """The address, if that is outside the crawl folder and may not be."""
        same_store = file.split("/")[:3] == self.root.split("/")[:3]
        return None if self._inside(file) or (self.allow_outside and same_store) else file

    def _inside(self, url: str) -> bool:
        return url.startswith(f"{self.root}/") and "/../" not in url  # a web server would follow that

    def relative(self, file: str) -> str:
        return printable(remote.below(file, self.root) if self._inside(file) else file)


def _joined(base: str, written: str) -> str:
    if is_address(written):
        try:
            return Remote(written).url
        except UsageError:  # a key in it
            return written.partition("?")[0]
    if written.startswith("/"):
        return written
    scheme, _, rest = base.partition("://")
    written = remote.spelled(written) if scheme.startswith("http") else written
    return f"{scheme}://{posixpath.normpath(posixpath.join(rest, written))}"
