"""The walls of the house: who may import whom, what is loaded when, and how the files look. Read with `ast` alone."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
HOUSE = REPOSITORY / "cleanweb"

# From the roof down. A file imports only from floors below its own, so neighbours on one floor are strangers.
# "shelf/*" is every file on a shelf, "shelf" its __init__: what they have in common.
FLOORS: list[tuple[str, set[str]]] = [
    ("the front door", {"__init__", "__main__"}),
    ("a run in Python", {"run"}),
    ("the command line", {"cli"}),
    ("the bench's commands", {"bench/commands"}),
    ("commands", {"commands", "commands/*", "bench/*"}),
    ("the story", {"pipeline", "retagging", "exporting", "modelexport", "prediction", "doctor"}),
    ("what is there", {"inspection"}),
    ("ways to learn", {"tune", "plan"}),
    ("what they start from", {"features", "pretrain", "refine", "crossfit", "cachefolder"}),
    ("what people decided", {"carried", "deciding"}),
    ("the blind page", {"audit/page"}),
    ("what is shown", {"summary", "report", "modelcard", "review", "review/*", "views"}),
    ("what a report is made of", {"thumbnails", "audit", "audit/*"}),
    ("what people say", {"reviews"}),
    ("the table images, some rows at a time", {"judging", "written"}),
    ("stages", {"readers/*", "imageworkers", "duplicates", "methods/*", "train", "score", "verdict", "tables",
                "trusted", "known", "manifest", "writers/*", "resuming"}),
    ("one file", {"images"}),
    ("labels that a table gives", {"keyedlabels"}),
    ("what is believed of every sample", {"belief"}),
    ("what some of a shelf share", {"labeltree", "shards", "finder"}),
    ("a table's rows", {"labelrows"}),
    ("what holds images", {"parquetfile"}),
    ("what a shelf has in common", {"readers", "methods", "writers", "bench"}),
    ("what the network leaves on disk", {"classifier"}),
    ("which network", {"backbone"}),
    ("built with tools", {"database", "network", "runfolder", "terminal", "config", "journal", "texttable", "placing",
                          "splits", "distributed", "opening"}),
    ("tools", {"settings", "machine", "malloc", "divergence", "neighbours", "labelnoise", "calibration", "smallloss",
               "mixmatch", "contrastive", "twogroups", "workers", "pixelcache", "signatures", "charts", "usage",
               "runlock", "checkpoint", "safenames", "spreadsheet", "drafts", "signals", "tarmembers", "columns",
               "packed", "parts", "frames", "visible"}),
    ("the disk, and other places", {"atomic", "remote", "scratch"}),
    ("ground", {"records", "errors", "schema"}),
]  # fmt: skip
ROOMS = {"audit", "review", "bench", "commands"}  # folders of one idea: their files may import each other

# (file, what it imports) → why it may, against the floors.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("methods/codim", "methods/dividemix"): "CoDiM is DivideMix with contrastive terms",
    ("methods/josnc", "methods/josrc"): "Jo-SNC is Jo-SRC with another selection",
}

# Which files may import these at module level. Elsewhere they are imported where they are needed, or not at all.
TENSORS = {"methods", "methods/*", "divergence", "neighbours", "network", "smallloss", "mixmatch", "contrastive",
           "backbone", "classifier", "pretrain", "refine", "machine", "distributed",
           "views", "features", "train", "tune", "crossfit", "plan", "score", "pipeline", "prediction", "modelexport",
           "bench/trial", "bench/speed", "bench/ranks",
           "bench/rivals", "bench/webvision"}  # fmt: skip
DATABASE = {"database", "manifest", "parquetfile", "writers/parquet"}
# What `--help`, `export`, `sql`, `retag`, `doctor` and `review` load: no module-level import leads from here to torch.
TORCH_FREE = {"__init__", "__main__", "run", "cli", "commands", "commands/*", "terminal", "config", "usage",
              "retagging", "exporting", "labeltree", "modelcard", "doctor", "summary", "report", "thumbnails",
              "charts", "reviews",
              "carried", "deciding", "review",
              "review/*", "verdict", "tables", "known", "judging", "written", "trusted", "manifest", "frames",
              "database", "images", "duplicates", "runfolder",
              "readers", "readers/*", "opening", "parquetfile", "labelrows", "keyedlabels", "shards", "tarmembers",
              "remote", "finder",
              "writers", "writers/*", "bench", "bench/noise", "bench/sources", "bench/worlds",
              "bench/metrics", "bench/record", "bench/tables", "bench/commands",
              "bench/costs", "audit", "audit/*", "runlock",
              "resuming", "journal", "checkpoint", "atomic", "signals"}  # fmt: skip
PRINTS = {
    "cli",
    "terminal",
    "commands",
    "commands/*",
    "bench/commands",
    "bench/costs",
}  # others use `logging` and callbacks

MOST_LINES = 420
# file → (its own limit, why it may be longer, or what should move out of it)
LONGER: dict[str, tuple[int, str]] = {}

NAMELESS = {"utils", "util", "core", "common", "helpers", "helper", "base", "manager", "factory", "misc"}
MACHINE_PATH = re.compile(r"(?<![\w.$])/(?:work|root|tmp/w|home/\w+|Users/\w+)/|\.\./shared\b")


def name_of(file: Path) -> str:
    """cleanweb/readers/table.py → readers/table; cleanweb/readers/__init__.py → readers."""
    parts = file.relative_to(HOUSE).with_suffix("").parts
    return "/".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


FILES = {name_of(file): file for file in sorted(HOUSE.rglob("*.py"))}
TREES = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in FILES.items()}
every_file = pytest.mark.parametrize("name", FILES)


def is_in(name: str, names: set[str]) -> bool:
    return name in names or ("/" in name and f"{name.split('/', maxsplit=1)[0]}/*" in names)


def floor_of(name: str) -> int | None:
    """0 is the roof; a file that is listed by name stands there even where its shelf stands elsewhere."""
    exact = [i for i, (_, names) in enumerate(FLOORS) if name in names]
    return next(iter(exact or [i for i, (_, names) in enumerate(FLOORS) if is_in(name, names)]), None)


def at_module_level(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when the file is imported: not the insides of functions, not `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from at_module_level(node)


def imported(name: str, nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Dotted names of what is imported; relative imports are made absolute."""
    package = ["cleanweb", *name.split("/")]
    if FILES[name].stem != "__init__":
        package = package[:-1]
    elif name == "__init__":
        package = ["cleanweb"]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*origin, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def of_the_house(dotted: str) -> str | None:
    """cleanweb.readers.table.read → readers/table; None for what is not a file of ours, and for our own version."""
    parts = dotted.split(".")
    if parts[0] != "cleanweb":
        return None
    for end in range(len(parts), 1, -1):
        if (name := "/".join(parts[1:end])) in FILES:
            return name
    return None


def test_every_file_has_a_floor():
    homeless = [name for name in FILES if floor_of(name) is None]
    assert not homeless, f"Add {homeless} to FLOORS in tests/test_architecture.py, as low as its imports allow."


@every_file
def test_a_file_imports_only_from_below(name):
    for target in set(filter(None, map(of_the_house, imported(name, ast.walk(TREES[name]))))) - {name}:
        room = name.split("/")[0]
        if (name, target) in EXCEPTIONS or (room in ROOMS and target.split("/")[0] == room):
            continue
        mine, theirs = floor_of(name), floor_of(target)
        if mine is None or theirs is None:
            continue  # the test above tells
        assert theirs > mine, (
            f"{name} (floor “{FLOORS[mine][0]}”) imports {target} (floor “{FLOORS[theirs][0]}”). Pass the value in, or "
            f"move what both need down under its own name."
        )


def test_exceptions_are_used_and_explained():
    for (name, target), reason in EXCEPTIONS.items():
        assert target in map(of_the_house, imported(name, ast.walk(TREES[name]))), f"not needed: {name} → {target}"
        assert reason
    assert all(name in FILES and reason for name, (_, reason) in LONGER.items())


@every_file
def test_heavy_libraries_are_imported_only_where_they_belong(name):
    heavy = {dotted.split(".")[0] for dotted in imported(name, at_module_level(TREES[name]))}
    anywhere = {dotted.split(".")[0] for dotted in imported(name, ast.walk(TREES[name]))}
    assert is_in(name, TENSORS) or not heavy & {"torch", "torchvision", "timm"}, "at module level"
    assert is_in(name, DATABASE) or "duckdb" not in anywhere, "manifest.py is the door to DuckDB"


@every_file
def test_what_must_start_quickly_leads_to_no_torch(name):
    if not is_in(name, TORCH_FREE):
        return
    seen, ways = set(), [(name,)]
    while ways:
        way = ways.pop()
        for dotted in imported(way[-1], at_module_level(TREES[way[-1]])):
            assert dotted.split(".")[0] not in ("torch", "torchvision", "timm"), " → ".join((*way, dotted))
            # importing readers.table imports readers too
            target = of_the_house(dotted)
            for step in {target, target.split("/")[0]} & FILES.keys() - seen if target else ():
                seen.add(step)
                ways.append((*way, step))


@every_file
def test_only_the_command_line_prints(name):
    if is_in(name, PRINTS):
        return
    calls = [node.func for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if isinstance(call, ast.Name) and call.id == "print"]
    assert not [dotted for dotted in imported(name, ast.walk(TREES[name])) if dotted.split(".")[0] == "rich"]


@pytest.mark.parametrize("module", ["cleanweb", "cleanweb.cli"])
def test_it_starts_light(module):
    if module == "cleanweb.cli" and "cli" not in FILES:
        pytest.skip("there is no cli.py yet")
    code = (
        f"import sys, {module}; print(*sorted({{'torch', 'pandas', 'duckdb', 'timm', 'sklearn'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.split() == []


@every_file
def test_a_file_holds_one_idea_and_has_a_name(name):
    limit, _ = LONGER.get(name, (MOST_LINES, ""))
    lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= limit, f"{lines} lines, at most {limit}: it holds a second idea; name it and move it"
    assert not NAMELESS & set(name.split("/"))


def test_no_text_names_a_place_on_some_machine():
    kinds = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".html", ".csv", ".cfg"}
    texts = [
        file for folder in ("cleanweb", "tests", "sample_data", ".ci") for file in (REPOSITORY / folder).rglob("*")
    ]
    texts += [file for file in REPOSITORY.iterdir() if file.suffix in kinds]
    for file in texts:
        if file.is_file() and (file.suffix in kinds or file.parent.name == ".ci"):
            found = MACHINE_PATH.search(file.read_text(encoding="utf-8", errors="replace"))
            assert not found, f"{file.relative_to(REPOSITORY)} names {found[0]}"
