"""The manifest's small tables, of what a run has learned and how it was made; images and classes are `judging.py`'s."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cleanweb import __version__
from cleanweb.remote import Place
from cleanweb.schema import SCHEMA_VERSION
from cleanweb.settings import Settings

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

NOISE = ("noise_rate", "noise_low", "noise_high")
_LEAST_EXPECTED = 0.005  # images; what is less is left out of the transition matrix


def transition_table(flow: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """flow (c + 1, c) as in Decision: a row for every true and given class of which any image is expected."""
    shown, given = np.nonzero(flow >= _LEAST_EXPECTED)
    names = np.array([*classes, None], dtype=object)
    return pd.DataFrame({
        "true_label": pd.Series(names[shown], dtype=object),
        "given_label": names[given],
        "images": flow[shown, given],
        "p_given": flow[shown, given] / flow.sum(1)[shown],
    })  # fmt: skip


def reliability_table(reliability: np.ndarray) -> pd.DataFrame:
    """reliability (b, 4) as in Decision: a row for every tenth of p_clean of which people have seen any image."""
    frame = pd.DataFrame(reliability, columns=["p_from", "images", "p_clean", "share_right"])
    return frame.astype({"images": "int64"})


def epochs_table(stages: Mapping[str, Sequence["DataclassInstance"]]) -> pd.DataFrame:
    """stage → its epoch records, one row each."""
    columns = ["stage", "epoch", "loss", "tau", "n_clean", "n_id", "n_ood", "lr", "seconds"]
    rows = [{"stage": stage} | asdict(record) for stage, records in stages.items() for record in records]
    return pd.DataFrame(rows, columns=columns)


def runs_table(settings: Settings, root: Place, fingerprint: str, started: datetime, noise: np.ndarray) -> pd.DataFrame:
    """One row: how this manifest was made, and what the crawl is like. noise (c + 1, 3) as in Decision."""
    finished = datetime.now(UTC)
    libraries = ("torch", "torchvision", "timm", "pandas", "pillow", "duckdb", "numpy", "scikit-learn")
    versions = {"python": platform.python_version()} | {name: version(name) for name in libraries}
    row = {
        "run_id": f"{started:%Y%m%dT%H%M%S}-{fingerprint}",
        "started_at": started,
        "finished_at": finished,
        "source": str(settings.source),
        "labels": None if settings.labels is None else str(settings.labels),
        "root": str(root),
        "settings": json.dumps(settings.to_json(), sort_keys=True),
        "versions": json.dumps(versions),
        "target": None,
        **dict(zip(NOISE, noise[-1], strict=True)),
        "seed": settings.seed,
        "fingerprint": fingerprint,
        "seconds": (finished - started).total_seconds(),
        "cleanweb_version": __version__,
        "schema_version": SCHEMA_VERSION,
    }
    return pd.DataFrame([row])
