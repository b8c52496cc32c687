"""Results as tables: our own, and the paper's with our numbers beside. Takes results, gives text in rows and columns.

Where there are several seeds: mean ± standard deviation over them (n − 1).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cleanweb.bench.record import Result
from cleanweb.bench.worlds import WORLDS
from cleanweb.settings import METHOD_NAMES

RECORDED = Path(__file__).parent / "results"  # the results that come with the package
NOTHING = "No result is recorded yet."


@dataclass(frozen=True)
class Table:
    """Text in rows and columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(results: list[Result]) -> list[Table]:
    """All that these results tell; tables without a number of ours are left out."""
    told = [verdicts(results), *(accuracies(results, n) for n in _ACCURACIES), selection(results), ablation(results)]
    return [table for table in told if table is not None]


def markdown(tables: Iterable[Table]) -> str:
    """Tables as Markdown, each with its title above it."""
    blocks = ["\n".join([f"{table.title}\n", *_markdown_rows(table)]) for table in tables]
    return "\n\n".join(blocks) or NOTHING


def _markdown_rows(table: Table) -> list[str]:
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return [f"| {' | '.join(line)} |" for line in lines]


# --- our own --------------------------------------------------------------------------------------------------------

Pick = Callable[[Result], float | None]


def _metric(name: str) -> Pick:
    return lambda result: result["metrics"][name]


def _of_verdict(verdict: str, name: str) -> Pick:
    return lambda result: result["metrics"]["verdicts"][verdict][name]


def _of_classifier(name: str) -> Pick:
    return lambda result: result["classifier"][name]


_COLUMNS: dict[str, Pick] = {
    "macro-F1": _metric("macro_f1"),
    "clean": _of_verdict("clean", "f1"),
    "relabeled": _of_verdict("relabeled", "f1"),
    "ood": _of_verdict("ood", "f1"),
    "suggested right": _metric("suggested_right"),
    "ECE": _metric("ece_clean"),
    "noise": _metric("noise_rate"),
    "true": _metric("true_noise_rate"),
    "test accuracy": _of_classifier("test_accuracy"),
}


def verdicts(results: list[Result]) -> Table | None:
    """What there is of every world and method. None where there are no results."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in sorted(results, key=_order):
        groups.setdefault((result["source"], result["world"], *_kind(result["settings"])), []).append(result)
    rows = [
        (f"{same[0]['world']} ({same[0]['source']})", *_words(same[0]["settings"]), str(len(same)),
         *(_mean(same, pick, digits=1) for pick in _COLUMNS.values()))
        for same in groups.values()
    ]  # fmt: skip
    title = "Verdicts held against the truth (%): F1, and n seeds"
    return Table(title, ["world", "method", "network", "n", *_COLUMNS], rows) if rows else None


def _order(result: Result) -> tuple[Any, ...]:
    """As worlds and methods are listed; rivals come last."""
    world, method = result["world"], result["settings"]["method"]
    places = [list(WORLDS).index(world) if world in WORLDS else len(WORLDS)]
    places += [METHOD_NAMES.index(method) if method in METHOD_NAMES else len(METHOD_NAMES)]
    return result["source"], *places, world, *map(str, _kind(result["settings"]))


def _kind(settings: Result) -> tuple[Any, ...]:
    """What must be alike for results to be seeds of one thing; how methods are told the noise is the world's matter."""
    said = ("method", "recipe", "backbone", "weights", "tune", "epochs", "batch_size")
    return *(settings[key] for key in said), settings.get("pretrain")


def _words(settings: Result) -> tuple[str, str]:
    """Method and network, in words."""
    size = [f"{settings['epochs']} epochs of {settings['batch_size']}"] if settings["epochs"] else []
    name = f"{settings['backbone']}{' from scratch' * (settings['weights'] == 'none')}"
    before = [f"--pretrain {settings['pretrain']}"] if settings.get("pretrain") else []
    method = " ".join(filter(None, (settings["method"], settings["recipe"], *before)))
    return method, ", ".join([name, settings["tune"], *size])


def _mean(results: list[Result], pick: Pick, digits: int) -> str:
    """In per cent; empty where there is no number."""
    numbers = [100 * value for value in map(pick, results) if value is not None]
    if not numbers:
        return ""
    spread = f" ± {np.std(numbers, ddof=1):.{digits}f}" if len(numbers) > 1 else ""
    return f"{np.mean(numbers):.{digits}f}{spread}"


# --- the paper's ----------------------------------------------------------------------------------------------------
# Yao et al., Jo-SRC, CVPR 2021, https://arxiv.org/abs/2103.13029, Tables 1, 2, 5 and 6, as printed. Table 1's rows but
# Jo-SRC's are, it says, those of JoCoR's paper, whose asymmetric noise stays within blocks of five classes.

_EPOCHS = 200  # of the paper's runs
_NOISES = {
    "sym20": "Symmetry – 20%",
    "sym50": "Symmetry – 50%",
    "sym80": "Symmetry – 80%",
    "asym40": "Asymmetry – 40%",
}
_METHODS = {
    "Standard": "standard",
    "Decoupling": "decoupling",
    "Co-teaching": "coteaching",
    "Co-teaching+": "coteaching+",
    "JoCoR": "jocor",
    "Jo-SRC": "josrc",
}
_ACCURACIES = {
    1: ("CIFAR100N-C", "cifar100n-c", {
        "sym20": ("35.14 ± 0.44", "33.10 ± 0.12", "43.73 ± 0.16", "49.27 ± 0.03", "53.01 ± 0.04", "58.15 ± 0.14"),
        "sym50": ("16.97 ± 0.40", "15.25 ± 0.20", "34.96 ± 0.50", "40.04 ± 0.70", "43.49 ± 0.46", "51.26 ± 0.11"),
        "sym80": ("4.41 ± 0.14", "3.89 ± 0.16", "15.15 ± 0.46", "13.44 ± 0.37", "15.49 ± 0.98", "23.80 ± 0.05"),
        "asym40": ("27.29 ± 0.25", "26.11 ± 0.39", "28.35 ± 0.25", "33.62 ± 0.39", "32.70 ± 0.35", "38.52 ± 0.20"),
    }),
    2: ("CIFAR80N-O", "cifar80n-o", {
        "sym20": ("29.37 ± 0.09", "43.49 ± 0.39", "60.38 ± 0.22", "53.97 ± 0.26", "59.99 ± 0.13", "65.83 ± 0.13"),
        "sym50": ("13.87 ± 0.08", "28.22 ± 0.19", "52.42 ± 0.51", "46.75 ± 0.14", "50.61 ± 0.12", "58.51 ± 0.08"),
        "sym80": ("4.20 ± 0.07", "10.01 ± 0.29", "16.59 ± 0.27", "12.29 ± 0.09", "12.85 ± 0.05", "29.76 ± 0.09"),
        "asym40": ("22.25 ± 0.08", "33.74 ± 0.26", "42.42 ± 0.30", "43.01 ± 0.59", "39.37 ± 0.16", "53.03 ± 0.25"),
    }),
}  # fmt: skip
_SELECTION = {  # ID best, ID last, OOD best, OOD last
    "sym20": ("60.91", "42.62", "59.54", "54.38"),
    "sym50": ("83.86", "65.92", "40.70", "38.75"),
    "sym80": ("96.31", "72.84", "26.67", "24.60"),
    "asym40": ("45.86", "45.52", "63.97", "45.37"),
}
_ABLATION = {
    "Standard": (("standard", "paper"), "29.37 ± 0.09"),
    "Jo-SRC-C": (("josrc", "paper-c"), "57.12 ± 0.33"),
    "Jo-SRC-CI": (("josrc", "paper-ci"), "61.32 ± 0.18"),
    "Jo-SRC-CIO": (("josrc", "paper-cio"), "63.10 ± 0.07"),
    "Jo-SRC": (("josrc", "paper"), "65.83 ± 0.13"),
}
# of the network that learned from the noisy labels; what is retrained on final labels is no part of the paper
_LEARNED = _of_classifier("teacher_test_accuracy_mean_last_10")
_SETUP = {"backbone": "cnn7", "tune": "full", "batch_size": 128}


def accuracies(results: list[Result], number: int) -> Table | None:
    """Table 1 or 2, and below every row of it ours."""
    name, world, printed = _ACCURACIES[number]
    ours = {
        noise: [_ours(results, f"{world}-{noise}", method, "paper", _LEARNED) for method in _METHODS.values()]
        for noise in printed
    }
    rows = []
    for noise, theirs in printed.items():
        rows += [(_NOISES[noise], "paper", *theirs), ("", "ours", *ours[noise])]
    title = f"Table {number} of the paper: test accuracy (%) on {name}, mean of the last 10 epochs"
    return Table(title, ["noise", "", *_METHODS], rows) if any(map(any, ours.values())) else None


def selection(results: list[Result]) -> Table | None:
    """Table 5, and below every row of it ours, of the verdicts after the last epoch."""
    picks = [_of_verdict(verdict, "precision") for verdict in ("relabeled", "ood")]
    ours = {noise: [_ours(results, f"cifar80n-o-{noise}", "josrc", "paper", p) for p in picks] for noise in _SELECTION}
    rows = []
    for noise, theirs in _SELECTION.items():
        known, foreign = ours[noise]
        rows += [(_NOISES[noise], "paper", *theirs), ("", "ours", "", known, "", foreign)]
    title = "Table 5 of the paper: precision (%) of ID and OOD selection on CIFAR80N-O, best and last epoch"
    columns = ["noise", "", "ID best", "ID last", "OOD best", "OOD last"]
    return Table(title, columns, rows) if any(map(any, ours.values())) else None


def ablation(results: list[Result]) -> Table | None:
    """Table 6, ours beside it."""
    rows = [
        (model, theirs, _ours(results, "cifar80n-o-sym20", *which, _LEARNED))
        for model, (which, theirs) in _ABLATION.items()
    ]
    title = "Table 6 of the paper: test accuracy (%) on CIFAR80N-O, Symmetry – 20%, mean of the last 10 epochs"
    return Table(title, ["model", "paper", "ours"], rows) if any(ours for _, _, ours in rows) else None


def _ours(results: list[Result], world: str, method: str, recipe: str, pick: Pick) -> str:
    """Our number in the paper's setup, from the runs of most epochs; told are those where they are not the paper's."""
    wanted = (_SETUP | {"method": method, "recipe": recipe}).items()
    there = [result for result in results if result["world"] == world and pick(result) is not None]
    alike = [r for r in there if wanted <= r["settings"].items() and not r["settings"].get("pretrain")]
    if not alike:
        return ""
    epochs = max(result["settings"]["epochs"] for result in alike)
    longest = [result for result in alike if result["settings"]["epochs"] == epochs]
    size = f", {epochs} epochs" * (epochs != _EPOCHS)
    return f"{_mean(longest, pick, digits=2)} (n = {len(longest)}{size})"
