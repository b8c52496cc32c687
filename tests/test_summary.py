"""What is printed at the end of a run: one is not many, what is not there is not told, and what to do next is."""

from dataclasses import replace
from pathlib import Path

import pytest

from cleanweb import summary
from cleanweb.summary import Summary


@pytest.fixture(scope="module")
def digest(run: Path) -> Summary:
    return summary.summarise(run, [])


@pytest.mark.parametrize(
    ("copies", "two_labels", "line"),
    [
        ({"exact": 1, "near": 0}, 0, "Duplicates: 1 exact copy."),
        ({"exact": 1, "near": 0}, 1, "Duplicates: 1 exact copy; 1 picture was given more than one label."),
        ({"exact": 3, "near": 1}, 0, "Duplicates: 3 exact and 1 near copies."),
        ({"exact": 0, "near": 2}, 2, "Duplicates: 2 near copies; 2 pictures were given more than one label."),
    ],
)
def test_one_is_not_many(digest: Summary, copies: dict[str, int], two_labels: int, line: str) -> None:
    assert line in replace(digest, duplicates=copies, two_labels=two_labels).lines()


@pytest.mark.parametrize(("n", "words"), [(0, "0 verdicts are"), (1, "1 verdict is"), (2000, "2,000 verdicts are")])
def test_how_many_are_worth_a_look(digest: Summary, n: int, words: str) -> None:
    told = replace(digest, needs_review=n)
    assert f"{words} worth a second look" in str(told)
    assert ("cleanweb review" in str(told)) == (n > 0)


def test_what_could_not_be_judged_is_said(digest: Summary) -> None:
    assert "could not be judged" not in str(replace(digest, unjudged=0))
    some = str(replace(digest, unjudged=3, noise_rate=0.2, noise_interval=(0.1, 0.3)))
    assert "3 images could not be judged" in some
    assert "NOTHING COULD BE JUDGED" not in some
    assert "NOTHING COULD BE JUDGED" in str(replace(digest, unjudged=3, noise_rate=None))


def test_next_come_looking_and_auditing_before_anything_is_handed_over(digest: Summary) -> None:
    told = str(replace(digest, needs_review=5))
    places = [told.index(f"cleanweb {name} ") for name in ("review", "audit", "export", "predict")]
    assert places == sorted(places)
    assert f"cleanweb audit --run {digest.run}  # " in told
