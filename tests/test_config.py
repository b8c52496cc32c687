"""Settings that need not be typed: cleanweb.toml, pyproject.toml, --set; and who overrules whom."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from cleanweb import config, settings
from cleanweb import fit as python_fit
from cleanweb.errors import UsageError
from cleanweb.settings import HYPERPARAMETERS, RECIPES, Recipe, Settings, checked
from tests.test_cli import cleanweb


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "crawl").mkdir()
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What `fit` asks the pipeline for, which here does nothing but tell."""
    from cleanweb import pipeline
    from cleanweb.errors import CrawlError

    seen: list[Settings] = []

    def stop(settings: Settings, *_: object) -> None:
        seen.append(settings)
        raise CrawlError("enough")

    monkeypatch.setattr(pipeline, "fit", stop)
    return seen


def fit(asked: list[Settings], *words: object) -> Settings:
    code, _, err = cleanweb("fit", *words)
    assert code == 3, err
    return asked[-1]


# --- the file -------------------------------------------------------------------------------------------------------


def test_without_a_file_nothing_is_said(here: Path) -> None:
    assert config.read() == config.Config()


@pytest.mark.parametrize("name", ["cleanweb.toml", "pyproject.toml"])
def test_both_places_and_both_spellings(name: str, here: Path) -> None:
    table = "[tool.cleanweb]\n" if name == "pyproject.toml" else ""
    (here / name).write_text(f"{table}batch-size = 16\nlabel_column = 'class'\nset = {{ lr = 0.01 }}\n")
    found = config.read()
    assert found.file == name
    assert found.values == {"batch_size": "16", "label_column": "class", "hyperparameters": ["lr=0.01"]}


@pytest.mark.parametrize("text", ["tool = 1", "tool.cleanweb = 1", "[[tool]]", "[tool]\ncleanweb = []"])
def test_what_is_no_table_is_refused_in_words(text: str, here: Path) -> None:
    (here / "pyproject.toml").write_text(text)
    with pytest.raises(UsageError, match="is no table"):
        config.read()


def test_a_pyproject_of_others_says_nothing_and_cleanweb_toml_comes_first(here: Path) -> None:
    (here / "pyproject.toml").write_text("[tool.ruff]\nline-length = 99\n")
    assert config.read() == config.Config()
    (here / "pyproject.toml").write_text("[tool.cleanweb]\nepochs = 1\n")
    (here / "cleanweb.toml").write_text("epochs = 2\n")
    assert config.read().values == {"epochs": "2"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bachbone = 'cnn5'", "Did you mean backbone?"),
        ("batch-sise = 3", "Did you mean batch-size?"),
        ("fresh = true", "--fresh each time"),
        ("allow-outside = true", "--allow-outside each time"),
        ("set = { learning = 3 }", "There is no hyper-parameter 'learning'"),
        ("set = { alfa = 0.5 }", "Did you mean alpha?"),
        ("copy-to = 's3://bucket/run'", "no setting 'copy-to'"),
        ("set = 3", "a table"),
        ("epochs = [1, 2]", "one value"),
        ("epochs = ", "TOML"),
        ("epochs = " + "[" * 20_000, "TOML"),
        (f"seed = {10**20}", "--seed"),
    ],
)
def test_what_a_file_cannot_say(text: str, said: str, here: Path) -> None:
    (here / "cleanweb.toml").write_text(text)
    code, _, err = cleanweb("fit", "crawl")
    assert code == 2
    assert said in err
    assert "cleanweb.toml" in err
    assert cleanweb("fit", "--help")[0] == 0  # a broken file keeps nobody from reading the help


def test_a_value_of_the_wrong_kind_names_the_file(here: Path) -> None:
    (here / "cleanweb.toml").write_text("epochs = 2.5\n")
    code, _, err = cleanweb("fit", "crawl")
    assert code == 2
    assert "--epochs" in err
    assert "It stands in cleanweb.toml." in err


def test_a_file_that_is_not_there(here: Path) -> None:
    code, _, err = cleanweb("fit", "crawl", "--config", "other.toml")
    assert code == 2
    assert "other.toml" in err


# --- who overrules whom ---------------------------------------------------------------------------------------------


def test_command_line_then_environment_then_file_then_default(
    here: Path, asked: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "cleanweb.toml").write_text(
        "source = 'crawl'\nout = 'of-the-file'\nepochs = 7\nset = { lr = 0.5, folds = 2 }\n"
    )
    found = fit(asked)
    assert (found.source, found.out, found.epochs, found.seed) == (Path("crawl"), Path("of-the-file"), 7, 0)
    assert found.hyperparameters == {"lr": 0.5, "folds": 2}
    assert found.origin == dict.fromkeys(("source", "out", "epochs", "set"), "cleanweb.toml")
    assert "From cleanweb.toml: " in found.words()[0]
    monkeypatch.setenv("CLEANWEB_RUN", "of-the-environment")
    found = fit(asked, "--epochs", 9, "--set", "lr=0.25")
    assert (found.out, found.epochs) == (Path("of-the-environment"), 9)
    assert found.hyperparameters == {"lr": 0.25, "folds": 2}  # the table and the command line are one
    assert "epochs" not in found.origin
    assert fit(asked, "--out", "of-the-command").out == Path("of-the-command")


def test_another_file(here: Path, asked: list[Settings]) -> None:
    (here / "cleanweb.toml").write_text("epochs = 7\n")
    (here / "quick.toml").write_text("epochs = 1\n")
    assert fit(asked, "crawl", "--config", "quick.toml").epochs == 1


def test_other_commands_look_where_the_file_sends_fit(here: Path, run: Path) -> None:
    (here / "cleanweb.toml").write_text(f"out = {json.dumps(str(run))}\n")
    assert cleanweb("sql", "SELECT 1")[0] == 0
    code, _, err = cleanweb("sql", "SELECT 1", "--run", "elsewhere")
    assert code == 6
    assert "elsewhere" in err


# --- --set ----------------------------------------------------------------------------------------------------------


def test_every_field_of_the_recipe_can_be_set_in_one_way() -> None:
    assert {*HYPERPARAMETERS, *settings._OWN_OPTION} == {field.name for field in fields(Recipe)}


@pytest.mark.parametrize("recipe", [recipe for sizes in RECIPES.values() for recipe in sizes.values()])
def test_what_the_recipes_have_can_be_set(recipe: Recipe) -> None:
    own = {name: getattr(recipe, name) for name in HYPERPARAMETERS}
    assert {name: checked(name, str(value)) for name, value in own.items()} == own
    assert Settings(Path(), hyperparameters=own).changed(recipe) == recipe


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("lr", "name=value"),
        ("lr=fast", "'fast'"),
        ("lr=nan", "number"),
        ("lr=inf", "number"),
        ("lr=1e300", "from 0 to 1000"),
        ("folds=2.5", "whole number"),
        ("epsilon=1.5", "from 0 to 1"),
        ("optimiser=lion", "adam or sgd"),
        ("epochs=3", "--epochs"),
        ("warmpu=0.1", "Did you mean warmup?"),
    ],
)
def test_set_refuses_what_cannot_be(pair: str, said: str) -> None:
    code, _, err = cleanweb("fit", "crawl", "--set", pair)
    assert code == 2
    assert said in err


def test_a_set_value_reaches_the_recipe_and_the_run(crawl: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, said, err = cleanweb("fit", crawl, "--out", out, "--set", "lr=0.005", "--set", "schedule=cosine", "--set",
                               "folds=1", "--backbone", "cnn5", "--epochs", 1, "--workers", 0)  # fmt: skip
    assert code == 0, err
    assert "Changed in the recipe: lr = 0.005, schedule = cosine, folds = 1." in said
    _, found, _ = cleanweb("sql", "SELECT settings FROM runs", "--run", out, "-f", "json")
    assert json.loads(json.loads(found)["settings"])["hyperparameters"] == {
        "lr": 0.005,
        "schedule": "cosine",
        "folds": 1,
    }
    _, found, _ = cleanweb("sql", "SELECT lr FROM epochs WHERE stage = 'train'", "--run", out, "-f", "json")
    assert json.loads(found)["lr"] == pytest.approx(0.005)


def test_an_unfinished_run_with_other_values_is_not_gone_on_with(tmp_path: Path) -> None:
    from cleanweb.errors import RunError
    from cleanweb.resuming import Unfinished

    (tmp_path / "run").mkdir()
    unfinished = Unfinished(tmp_path / "run")
    unfinished.begin(Settings(tmp_path, hyperparameters={"lr": 0.1}), [])
    unfinished.begin(Settings(tmp_path, hyperparameters={"lr": 0.1}, origin={"set": "x.toml"}), [])
    with pytest.raises(RunError, match=r"other settings: --set was .*lr"):
        unfinished.begin(Settings(tmp_path, hyperparameters={"lr": 0.2}), [])


@pytest.mark.parametrize(
    ("name", "value"),
    [*((name, least - 1) for name, least in settings.LEAST.items()), ("epochs", -1), ("seed", settings.MOST_SEED + 1)],
)
def test_numbers_that_cannot_be_are_refused_by_command_and_in_python(name: str, value: int, tmp_path: Path) -> None:
    option = f"--{name.replace('_', '-')}"
    assert cleanweb("fit", tmp_path, option, str(value))[0] == 2
    with pytest.raises(UsageError, match=f"{option} is at least"):
        python_fit(tmp_path, **{name: value})


def test_python_is_refused_the_same() -> None:
    with pytest.raises(UsageError, match="Did you mean omega"):
        settings.Settings(Path(), hyperparameters={"omegga": 0.9}).changed(RECIPES["auto"]["small"])


def test_the_readme_names_every_hyperparameter_and_its_file_can_be_read(here: Path) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    example = readme.split("```toml\n")[1].split("```")[0]
    (here / "cleanweb.toml").write_text(example, encoding="utf-8")
    assert config.read().values["hyperparameters"] == ["lr=0.01", "folds=3"]
    assert all(f"`{name}`" in readme for name in HYPERPARAMETERS)
