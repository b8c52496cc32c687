"""What a new user types wrongly, and what the answer must hold: what is wrong, and what to do. Never a traceback."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.test_cli import cleanweb
from tests.test_train import MEMORY


@pytest.fixture
def here(run: Path, crawl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run and a crawl in it, and a file that is neither."""
    monkeypatch.chdir(tmp_path)
    for name, target in (("run", run), ("crawl", crawl)):
        (tmp_path / name).symlink_to(target, target_is_directory=True)
    (tmp_path / "afile").write_text("hi\n")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        # a folder that cannot be written
        ("fit crawl --out afile/run --backbone cnn5", 5, "afile"),
        ("report --run run --out afile/page.html", 5, "afile"),
        ("export --run run --out afile/x.csv", 5, "afile/x.csv"),
        # a run that is none
        ("sql --run afile SELECT", 6, "afile is a file, not a run folder"),
        ("retag --run crawl", 6, "cleanweb fit"),
        # options
        ("fit crawl labels.csv", 2, "Options begin with --"),
        ("sql SELECT 1", 2, "quotes"),
        ("fit crawl --recipe papr", 2, "Did you mean paper?"),
        ("fit crawl --method josrcc", 2, "Did you mean josrc?"),
        ("export --only cleen", 2, "Did you mean clean?"),
        ("fit crawl --noise-rate 20%", 2, "Invalid value for '--noise-rate': it should be a valid number"),
        ("fit crawl --epochs many", 2, "'--epochs': it should be a valid integer"),
        ("fit crawl --image-size 8", 2, "greater than or equal to 16"),
        ("fit crawl --seed 18446744073709551616", 2, "less than or equal to"),
        ("audit --run run --sheet new.csv --seed 18446744073709551616", 2, "less than or equal to"),
        # names
        ("fit crawl --out new --backbone cnn6", 2, "Did you mean cnn"),
        ("fit crawl --out new --backbone some/where", 2, "There is no folder some/where"),
        ("fit crawl --out new --backbone resnet5", 2, "resnet50"),
        ("bench make crawl noise21 --out w", 2, "Did you mean noise20?"),
        ("bench make crawl xyz --out w", 2, "cleanweb bench worlds"),
        ("bench tables --results nowhere", 2, "There is no folder nowhere"),
        # conditions
        ("export --run run --where konfidence>0.9", 2, "in the condition 'konfidence>0.9'"),
        ("export --run run --where konfidence>0.9", 2, '"confidence"'),
    ],
)
def test_the_answer_to_a_mistake(command: str, code: int, said: str, here: Path) -> None:
    found, out, err = cleanweb(*command.split())
    assert found == code, err
    assert said in err
    assert out == ""
    assert "Value error" not in err
    assert "unable to parse" not in err


def test_a_report_is_written_into_a_new_folder(here: Path) -> None:
    code, out, _ = cleanweb("report", "--run", "run", "--out", "new/page.html")
    assert (code, out.strip()) == (0, str(Path("new/page.html")))


def test_a_full_disk_is_told_in_words(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cleanweb import pipeline

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "scores.npz")

    monkeypatch.setattr(pipeline, "fit", full)
    code, _, err = cleanweb("fit", "crawl", "--out", "new")
    assert (code, err.strip()) == (5, "Error: No space left on device: scores.npz.")


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: type(error).__name__)
def test_too_little_memory_anywhere_is_told_in_words(error: Exception, here: Path, monkeypatch) -> None:
    """Not only in training, which tries again with less."""
    from cleanweb import pipeline

    monkeypatch.setattr(pipeline, "fit", raising(error))
    code, _, err = cleanweb("fit", "crawl", "--out", "new")
    assert (code, err.strip().startswith("Error: out of memory.")) == (5, True)
    monkeypatch.setattr(pipeline, "fit", raising(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):  # is told as one
        cleanweb("fit", "crawl", "--out", "new")


def raising(error: Exception) -> Callable[..., None]:
    def fit(*_: object) -> None:
        raise error

    return fit


@pytest.mark.parametrize("rank", [None, "0", "1"])
def test_only_the_rank_that_reads_the_crawl_must_see_it(rank: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    from cleanweb.commands.fit import _refuse_missing
    from cleanweb.errors import CrawlError
    from cleanweb.settings import Settings

    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with nullcontext() if rank == "1" else pytest.raises(CrawlError, match="Nothing found"):
        _refuse_missing(Settings(Path("nowhere")))


def test_another_network_than_asked_for_is_told_before_training(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was said at the end alone, after the hours that the wrong network took."""
    from cleanweb import backbone, pipeline
    from cleanweb.errors import CrawlError

    monkeypatch.setattr(backbone, "_hub_answers", lambda: False)

    def stop(*_: object, **__: object) -> None:
        raise CrawlError("enough")

    monkeypatch.setattr(pipeline.inspection, "inspect", stop)
    told = []
    for words in ((), ("--quiet",)):
        code, _, err = cleanweb("fit", "crawl", "--out", "new", "--backbone", "resnet18.a1_in1k", *words)
        assert code == 3
        told.append("warning: The weights of resnet18.a1_in1k are not on this machine" in err)
    assert told == [True, False]
