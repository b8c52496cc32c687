"""What people have verified, matched with the crawl: the very picture they saw, or a word why not."""

from pathlib import Path

import numpy as np
import pytest

from cleanweb.errors import UsageError
from cleanweb.records import NO_CLASS, UNVERIFIED, Sample
from cleanweb.trusted import Seen, matched, read_trusted, trusted_classes

TABLE = Path("verified.csv")


def embedded(path: str, row: int, label: str = "ant", number: str = "") -> Sample:
    return Sample(path + number, path, "/crawl/train.parquet", row, label)


def test_of_pictures_of_one_path_the_very_one_is_meant():
    samples = [embedded("7.png", 0), embedded("7.png", 1, "bee", "#2"), embedded("8.png", 2)]
    second = Seen("7.png", None, ("/crawl/train.parquet", 1))
    assert matched(TABLE, [second, Seen("8.png", "bee")], samples) == {1: None, 2: "bee"}
    with pytest.raises(UsageError, match=r"names 7\.png, and 2 pictures of the crawl are called that"):
        matched(TABLE, [Seen("7.png", None)], samples)


def test_rows_that_name_a_file_again_are_one_picture():
    again = [
        Sample("a.jpg", "a.jpg", "/crawl/a.jpg", None, "ant"),
        Sample("a.jpg#2", "a.jpg", "/crawl/a.jpg", None, "bee"),
    ]
    assert matched(TABLE, [Seen("a.jpg", "bee")], again) == {0: "bee"}
    with pytest.raises(UsageError, match=r"two labels to a\.jpg"):
        matched(TABLE, [Seen("a.jpg", "bee"), Seen("a.jpg", "ant")], again)


def test_a_class_of_which_no_picture_can_be_used_is_not_taken_for_none_of_the_classes():
    kept = scored = np.arange(3)
    assert trusted_classes({0: "bee", 2: None}, kept, scored, ["ant", "bee"]).tolist() == [1, UNVERIFIED, NO_CLASS]
    with pytest.raises(UsageError, match="'wasp' is none of the classes: no picture of it can be used"):
        trusted_classes({0: "wasp"}, kept, scored, ["ant", "bee"])


@pytest.mark.parametrize("people", [{0: "ant", 1: "bee"}, {1: "bee", 0: "ant"}, {0: "ant", 1: None}])
def test_two_labels_for_copies_of_one_picture_are_refused_in_any_order(people: dict[int, str | None]):
    with pytest.raises(UsageError, match="contradict each other"):
        trusted_classes(people, np.array([0, 0]), np.array([0]), ["ant", "bee"])


def test_a_manifest_is_not_taken_for_verified_labels(run: Path, crawl: Path):
    with pytest.raises(UsageError, match="is a manifest: its given_label is what the crawl says"):
        read_trusted(run / "manifest.csv", [], crawl)
