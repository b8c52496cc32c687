"""Results become tables: of seeds mean ± deviation, nothing where nothing was run; the README shows what is there."""

import copy
import json
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cleanweb.bench import record, tables
from cleanweb.bench.record import Result
from cleanweb.cli import app
from cleanweb.methods import METHODS

ROOT = Path(__file__).parent.parent


def result(world: str, seed: int, **settings: object) -> Result:
    """A result as `bench run` writes it; its numbers grow with the seed."""
    value = 0.5 + seed / 100
    found = dict.fromkeys(("precision", "recall", "f1"), value)
    names = ("macro_f1", "suggested_right", "ece_clean", "noise_rate", "true_noise_rate")
    told = {
        "method": "josrc", "recipe": "paper", "tune": "full", "epochs": 200, "batch_size": 128, "noise_rate": None,
        "seed": seed, "backbone": "cnn7", "weights": "none", "device": "cpu",
    }  # fmt: skip
    return {
        "world": world,
        "source": "cifar100",
        "world_seed": seed,
        "settings": told | settings,
        "metrics": dict.fromkeys(names, value) | {"verdicts": dict.fromkeys(("clean", "relabeled", "ood"), found)},
        "classifier": dict.fromkeys(record.CLASSIFIER, value),
    }


def rows(table: tables.Table) -> list[dict[str, str]]:
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert all(isinstance(cell, str) for row in table.rows for cell in row)
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


# --- what methods promise ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_is_expected_to_reach_is_what_the_results_say(method: str):
    """The results that the method's file names; where it names none, all of the method on the scaled worlds."""
    doc = import_module(next(iter(METHODS[method].values())).partition(":")[0]).__doc__
    expected = " ".join(re.findall(r"^Expected(.*?)^$", doc, re.MULTILINE | re.DOTALL))
    named = re.findall(rf"scaled-\w+-\d+-{re.escape(method)}-[\w-]+\.json", expected)
    files = [tables.RECORDED / name for name in named] or sorted(tables.RECORDED.glob(f"scaled-*-{method}-*.json"))
    assert files
    for file in files:
        found = json.loads(file.read_text(encoding="utf-8"))
        for share in (found["metrics"]["macro_f1"], found["classifier"]["test_accuracy"]):
            assert f"{100 * share:.1f}" in expected, file.name


# --- our own --------------------------------------------------------------------------------------------------------


def test_seeds_become_their_mean_and_deviation():
    (row,) = rows(tables.verdicts([result("noise20", seed, device=f"cuda:{seed}") for seed in (0, 1, 4)]))
    values = 50 + np.array([0, 1, 4])
    assert row["n"] == "3"
    assert row["macro-F1"] == f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
    assert set(list(row.values())[4:]) == {row["macro-F1"]}


def test_one_seed_has_no_deviation_and_nothing_is_an_empty_cell():
    alone = result("noise20", 0)
    alone["metrics"]["ece_clean"] = alone["classifier"]["test_accuracy"] = None
    (row,) = rows(tables.verdicts([alone]))
    assert (row["macro-F1"], row["ECE"], row["test accuracy"], row["n"]) == ("50.0", "", "", "1")


@pytest.mark.parametrize(
    "other",
    [{"method": "standard"}, {"recipe": "auto"}, {"backbone": "cnn5"}, {"tune": "head"}, {"epochs": 10},
     {"weights": "x"}, {"batch_size": 64}],
)  # fmt: skip
def test_only_seeds_of_one_thing_are_averaged(other: dict[str, object]):
    both = [result("noise20", 0), result("noise20", 1, **other)]
    assert [row["n"] for row in rows(tables.verdicts(both))] == ["1", "1"]
    elsewhere = result("noise20", 1) | {"source": "another set"}
    assert len(rows(tables.verdicts([both[0], elsewhere]))) == 2
    told = result("noise20", 1, noise_rate=0.31)  # drawn anew for every seed
    assert len(rows(tables.verdicts([result("noise20", 0, noise_rate=0.3), told]))) == 1


def test_rows_stand_as_worlds_and_methods_are_listed_whatever_the_order():
    wanted = [
        ("noise5", "josrc"),
        ("noise5", "standard"),
        ("noise5", "cleanlab"),
        ("noise50", "josrc"),
        ("own", "josrc"),
    ]
    given = [result(world, 0, method=method) for world, method in wanted]
    for order in (given, given[::-1]):
        found = [(row["world"].split()[0], row["method"].split()[0]) for row in rows(tables.verdicts(order))]
        assert found == wanted


# --- the paper's ----------------------------------------------------------------------------------------------------


def test_the_papers_tables_are_whole():
    assert all(len(row) == 6 for _, _, printed in tables._ACCURACIES.values() for row in printed.values())
    assert all(set(printed) == set(tables._NOISES) for _, _, printed in tables._ACCURACIES.values())
    assert all(len(row) == 4 for row in tables._SELECTION.values())
    for _, _, printed in tables._ACCURACIES.values():  # as the paper says: Jo-SRC is best everywhere
        means = [[float(cell.split(" ± ")[0]) for cell in row] for row in printed.values()]
        assert [int(np.argmax(row)) for row in means] == [5] * 4
    (standard, *_), (*_, josrc) = tables._ABLATION.values(), tables._ABLATION.values()
    printed = tables._ACCURACIES[2][2]["sym20"]
    assert (standard[1], josrc[1]) == (printed[0], printed[5])  # told in both tables


def test_our_numbers_stand_below_the_papers_and_the_rest_is_empty():
    found = [result("cifar80n-o-sym20", seed) for seed in (0, 2)]
    found.append(result("cifar80n-o-sym50", 0, method="jocor", epochs=40))
    first, second = tables.accuracies(found, 1), rows(tables.accuracies(found, 2))
    assert first is None
    assert second[0]["Jo-SRC"] == "65.83 ± 0.13"
    assert second[1] == {"noise": "", "": "ours"} | dict.fromkeys(tables._METHODS, "") | {
        "Jo-SRC": f"51.00 ± {np.std([50, 52], ddof=1):.2f} (n = 2)"
    }
    assert second[3]["JoCoR"] == "50.00 (n = 1, 40 epochs)"
    assert sum(bool(cell) for row in second[1::2] for cell in row.values()) == 4 + 2
    selection = rows(tables.selection(found))
    assert [row["ID last"] for row in selection[:2]] == ["42.62", second[1]["Jo-SRC"]]
    assert selection[1]["ID best"] == ""
    assert [row["ours"] for row in rows(tables.ablation(found))] == ["", "", "", "", second[1]["Jo-SRC"]]


def test_the_papers_cells_take_only_the_papers_setup():
    fit = result("cifar100n-c-sym20", 3)
    others = ({"backbone": "cnn5"}, {"recipe": "auto"}, {"tune": "head"}, {"batch_size": 64})
    misfits = [result("cifar100n-c-sym20", 0, **other) for other in others]
    short = result("cifar100n-c-sym20", 0, epochs=20)
    unseen = copy.deepcopy(fit)
    unseen["classifier"]["teacher_test_accuracy_mean_last_10"] = None
    assert tables.accuracies([*misfits, unseen], 1) is None
    assert rows(tables.accuracies([short, fit, *misfits, unseen], 1))[1]["Jo-SRC"] == "53.00 (n = 1)"


# --- printing -------------------------------------------------------------------------------------------------------


def test_markdown_has_a_bar_for_every_column():
    found = tables.tables([result("cifar80n-o-sym20", 0)])
    assert [table.title[:7] for table in found] == ["Verdict", "Table 2", "Table 5", "Table 6"]
    for block, table in zip(re.split(r"\n\n(?=\w)", tables.markdown(found)), found, strict=True):
        title, _, *lines = block.splitlines()
        assert title == table.title
        assert {line.count("|") for line in lines} == {len(table.columns) + 1}
        assert len(lines) == 2 + len(table.rows)


def test_the_command_prints_what_is_in_the_folder(tmp_path: Path):
    for seed in range(2):
        record.write(result("noise20", seed), tmp_path / f"{seed}.json")
    for words, mark in (((), "noise20 (cifar100)"), (("--markdown",), "| noise20 (cifar100) |")):
        done = CliRunner().invoke(app, ["bench", "tables", "--results", str(tmp_path), *words])
        assert done.exit_code == 0
        assert mark in done.stdout
        assert "50.5 ± 0.7" in done.stdout
    (tmp_path / "x.json").write_text(json.dumps({"not": "ours"}))
    assert CliRunner().invoke(app, ["bench", "tables", "--results", str(tmp_path)]).exit_code == 2
    assert CliRunner().invoke(app, ["bench", "tables", "--results", str(tmp_path / "nowhere")]).exit_code == 2
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(app, ["bench", "tables", "--results", str(tmp_path / "empty")])
    assert (done.exit_code, done.stdout) == (0, f"{tables.NOTHING}\n")


def test_the_readme_shows_the_recorded_results():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- results -->\n(.*?)\n<!-- /results -->", readme, re.DOTALL)
    recorded = tables.markdown(tables.tables(record.read_all(tables.RECORDED)))
    assert shown == recorded, "Put what `cleanweb bench tables --markdown` prints between the README's two marks."
