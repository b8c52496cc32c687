"""cleanweb.toml, or [tool.cleanweb] in pyproject.toml: settings of `fit` that need not be typed again.

    source = "crawl"
    labels = "labels.csv"
    backbone = "resnet50.a1_in1k"
    batch-size = 64
    set = { lr = 0.01, folds = 3 }

Keys are the options of `fit` without their dashes, values are what the command line takes. The command line overrules
them, and so does the environment.
"""

from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from pathlib import Path

from cleanweb.errors import UsageError, did_you_mean
from cleanweb.settings import Settings, checked

EACH_TIME = ("fresh", "allow_outside")  # what replaces a run, or trusts a crawl, whose folder may hold a file of ours
_NO_OPTION = ("hyperparameters", "origin", "copy_to")  # --set, and what follows from others
KEYS = ("set", *(f.name for f in fields_of(Settings) if f.name not in (*EACH_TIME, *_NO_OPTION)))


@dataclass(frozen=True, slots=True)
class Config:
    """What a file says. values: parameter of `fit` → text, as on the command line; hyperparameters: name=value each."""

    file: str = ""
    values: dict[str, str | list[str]] = field(default_factory=dict)


def read(file: Path | None = None) -> Config:
    """The settings in `file`, else in the current folder's cleanweb.toml or pyproject.toml, else none.

    Raises UsageError where the file is not there, is no TOML, or says what it cannot say.
    """
    if file is not None and not file.is_file():
        raise UsageError(f"There is no file {file}: looked for settings there (--config).")
    for place in [file] if file else [Path("cleanweb.toml"), Path("pyproject.toml")]:
        table = _table(place) if place.is_file() else None
        if table is not None:
            return Config(str(place), dict(_setting(place, key, value) for key, value in table.items()))
    return Config()


def _table(file: Path) -> dict[str, object] | None:
    """The settings' own table; None where a pyproject.toml has none."""
    import tomllib

    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, not TOML, too deep
        raise UsageError(f"{file} cannot be read as TOML: {error}.") from error
    for name in ("tool", "cleanweb") if file.name == "pyproject.toml" else ():
        if name not in found:
            return None
        found = found[name]
        if not isinstance(found, dict):
            raise UsageError(f"{file}: [tool.cleanweb] is no table.")
    return found


def _setting(file: Path, key: str, value: object) -> tuple[str, str | list[str]]:
    """One line of the file, as the command line takes it."""
    name = key.replace("-", "_")
    options = [known.replace("_", "-") for known in KEYS]
    if name in EACH_TIME:
        raise UsageError(f"{file}: {key} is not kept in a file. Give --{key} each time.")
    if name not in KEYS:
        raise UsageError(
            f"{file}: there is no setting {key!r}.{did_you_mean(key, options)} There are: {', '.join(options)}."
        )
    if name == "set":
        if not isinstance(value, dict):
            raise UsageError(f"{file}: set is a table, as {{ lr = 0.01 }}, not {value!r}.")
        try:
            return "hyperparameters", [f"{k}={checked(k, v)}" for k, v in value.items()]
        except UsageError as error:
            raise UsageError(f"{file}: {error}") from None
    if isinstance(value, dict | list):
        raise UsageError(f"{file}: {key} is one value, not {value!r}.")
    return name, str(value)
