"""The nouns that travel between the stages. Plain data; importing this loads neither torch nor pandas."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

NOTICE = 25  # level of the log: what a person is told unasked, and need not act on
logging.addLevelName(NOTICE, "NOTE")

MOST_BYTES = 500_000_000  # of an image file, wherever it lies: a larger one is not opened

# progress(stage, done, total): called by long steps; the command line draws it.
Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """The progress callback that shows nothing."""


class Verdict(StrEnum):
    """What is concluded of one sample."""

    CLEAN = "clean"  # the given label is right
    RELABELED = "relabeled"  # the image belongs to another class: see suggested_label
    OOD = "ood"  # the image belongs to none of the classes
    UNUSABLE = "unusable"  # no readable image or no label: see reason


class Status(StrEnum):
    """What is known of one sample before anything is learned: of its row (by the reader) or its file (by inspect)."""

    OK = "ok"
    # found by the reader
    UNLABELED = "unlabeled"  # the table's row has an empty label
    UNLISTED = "unlisted"  # a file of the crawl folder that no row of the table names
    REPEATED = "repeated"  # the table names this path again, with the same label
    CONFLICTING = "conflicting"  # the table names this path again, with another label
    MISSING = "missing"  # no such file
    OUTSIDE = "outside"  # the path, or a link, leads out of the crawl folder: it is not opened
    NOT_DOWNLOADED = "not_downloaded"  # the crawler could not fetch it, and says why
    # found by inspecting the file, or by the reader of the shard that holds it
    EMPTY = "empty"  # zero bytes
    TRUNCATED = "truncated"  # the picture breaks off
    NOT_AN_IMAGE = "not_an_image"  # HTML, JSON, text, archive …
    UNSUPPORTED = "unsupported"  # an image format or mode that cannot be decoded
    TOO_LARGE = "too_large"  # more pixels or bytes than are decoded (decompression bomb)
    ERROR = "error"  # anything else, in the decoder's own words


COPIES = ("", "exact", "near")  # what kind of copy of another a sample is; of none, or itself the one that is kept

MEANING = {
    Verdict.CLEAN: "the given label fits",
    Verdict.RELABELED: "another class is suggested",
    Verdict.OOD: "none of the classes",
    Verdict.UNUSABLE: "no readable image, or no label",
}
UNREADABLE = (Status.MISSING, Status.OUTSIDE, Status.NOT_DOWNLOADED, Status.EMPTY, Status.TRUNCATED,
              Status.NOT_AN_IMAGE, Status.UNSUPPORTED, Status.TOO_LARGE, Status.ERROR)  # fmt: skip
CLOSED = (Status.REPEATED, Status.CONFLICTING, *UNREADABLE)  # no file is opened for a row of which a reader says this


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of the crawl: an image and the label it was given."""

    sample_id: str  # unique in the run: the path, with "#2", "#3" … where the table names a path again
    path: str  # posix, relative to the crawl folder where the file lies inside it, else absolute
    file: str  # the file to open, absolute: the image itself, or the Parquet or tar file that holds it
    row: int | None  # row of that Parquet file, or byte of that tar at which it begins; None where `file` is the image
    given_label: str | None  # None where no label was given
    status: Status = Status.OK  # OK, or what the reader found wrong
    note: str = ""  # that in words
    url: str = ""  # the address it was downloaded from, where the crawl says
    sha256: str = ""  # of the bytes as they were downloaded, where the crawl says


@dataclass(frozen=True, slots=True)
class Unread:
    """What stands in the place of an image's bytes where its file gave none."""

    status: Status
    words: str


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What opening one file once has shown. Exactly one status, in words where it is not OK."""

    status: Status
    error: str = ""  # why it is not OK; empty where it is
    format: str = ""  # as decoded: JPEG, PNG, WEBP …
    width: int = 0  # px, EXIF orientation applied
    height: int = 0  # px
    bytes: int = 0  # file size
    sha256: str = ""  # of the file's bytes
    pixel_digest: str = ""  # of size, hash and the pixels kept: equal pictures are equal here whatever their format
    phash: int = 0  # 64-bit perceptual hash (unsigned)
    note: str = ""  # e.g. "GIF named .jpg", "animated: first of 12 frames"


KEPT = "kept: too little was learned of its class to judge it"  # the reason of an unjudged image
LEFT_OUT = "left out: its label is likely right, but less surely than the target asks"  # the reason, where there is one
UNVERIFIED, NO_CLASS = -2, -1  # in Scores.verified: nobody has looked; it belongs to none of the classes
VERIFIED = "verified by a person"  # the reason of a verdict that a person has given


@dataclass(frozen=True, slots=True)
class Target:
    """What `retag` is asked for: at most one of the two; neither is "the most probable verdict"."""

    min_precision: float | None = None  # in (0, 1): this share of the images kept as clean must be right
    keep: float | None = None  # in (0, 1]: this share of the judged images is kept as clean


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model believes of n scored samples and c classes. numpy arrays, float32 unless said."""

    labels: "np.ndarray"  # (n,) int64: given label, -1 where none
    probs: "np.ndarray"  # (n, c): teacher's prediction, mean over views
    view_disagreement: "np.ndarray"  # (n,) in [0, 1]: share of view pairs whose arg-max differ (Eq. 4, averaged)
    js_clean: "np.ndarray"  # (n,) in [0, 1]: Eq. 3
    neighbours: "np.ndarray"  # (n, k) int32: nearest other samples, nearest first; -1 where there are fewer
    similarity: "np.ndarray"  # (n, k): cosine similarity to them
    verified: "np.ndarray"  # (n,) int64: the class a person has seen, NO_CLASS or UNVERIFIED

    def arrays(self) -> dict[str, "np.ndarray"]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Decision:
    """What we conclude of n samples. p_clean + p_id + p_ood = 1."""

    verdict: list[Verdict]
    suggested: "np.ndarray"  # (n,) int64: suggested class where RELABELED, else -1
    p_clean: "np.ndarray"  # (n,) probability that the given label is right
    p_id: "np.ndarray"  # (n,) probability that the image belongs to another class
    p_ood: "np.ndarray"  # (n,) probability that it belongs to none
    confidence: "np.ndarray"  # (n,) probability that the verdict, and its suggested label, are right
    needs_review: "np.ndarray"  # (n,) bool: the evidence is thin
    flow: "np.ndarray"  # (c + 1, c): expected number of images that show class j (last row: none) and were given k
    noise: "np.ndarray"  # (c + 1, 3): estimated share of wrong labels, its 95 % interval; of each class, and of all
    reliability: "np.ndarray"  # (b, 4): lower edge of a tenth of p_clean, images people saw, mean p_clean, share right
    reason: list[str] = field(default_factory=list)
