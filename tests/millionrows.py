"""A manifest of many rows, as a run on a large crawl leaves it; its files are a few pictures, named again and again."""

from pathlib import Path

import numpy as np
import pandas as pd

from cleanweb import manifest
from cleanweb.schema import SCHEMA_VERSION, TABLES

CLASSES = [f"class {k:03d}" for k in range(100)]
SHARES = ("p_clean", "p_id", "p_ood", "confidence", "js_clean", "view_disagreement", "p_given", "p_predicted",
          "neighbour_agreement", "neighbour_similarity")  # fmt: skip


def write(run: Path, n: int, pictures: list[Path], seed: int = 0) -> None:
    """Of n images 78 % are clean, 12 % relabeled, 9 % ood and 1 % unusable."""
    rng, none = np.random.default_rng(seed), np.full(n, None, object)
    labels = np.array(CLASSES, object)
    verdict = rng.choice(["clean", "relabeled", "ood", "unusable"], n, p=[0.78, 0.12, 0.09, 0.01]).astype(object)
    given = rng.integers(0, len(labels), n)
    other = (given + rng.integers(1, len(labels), n)) % len(labels)
    p = np.sort(rng.dirichlet([4, 1, 0.7], n), 1)[:, ::-1].astype(np.float32)
    bad, sure = verdict == "unusable", p[:, 0]
    p_clean = np.where(verdict == "clean", sure, p[:, 1])
    p_id = np.where(verdict == "relabeled", sure, np.where(verdict == "clean", p[:, 1], p[:, 2]))
    names = np.array([f"{labels[k]}/{i:07d}.jpg" for i, k in enumerate(given)], object)
    hashes = [f"{x:016x}" for x in rng.integers(0, 2**63, n)]
    files = np.array([str(file) for file in pictures], object)
    shares = dict.fromkeys(SHARES, sure) | {"p_clean": p_clean, "p_id": p_id, "p_ood": 1 - p_clean - p_id}
    images = {name: none for name, _, _ in TABLES["images"]} | {
        "sample_id": names, "path": names, "status": np.where(bad, "truncated", "ok"), "format": "JPEG",
        "error": np.where(bad, "image file is truncated", None), "width": 640, "height": 480, "bytes": 60_000,
        "sha256": [text * 4 for text in hashes], "phash": hashes, "given_label": labels[given], "verdict": verdict,
        "suggested_label": np.where(verdict == "relabeled", labels[other], None),
        "final_label": np.select([verdict == "clean", verdict == "relabeled"], [labels[given], labels[other]], None),
        "needs_review": (sure < 0.5) & ~bad, "reason": "the model sees this", "predicted_label": labels[other],
        "file": files[rng.integers(0, len(files), n)],
    } | {name: np.where(bad, np.nan, share) for name, share in shares.items()}  # fmt: skip
    counts = dict.fromkeys(("clean", "relabeled_away", "relabeled_into", "ood", "unusable"), 0)
    classes = [{"label": label, "images": n // len(CLASSES)} | counts for label in CLASSES]
    runs = [{"run_id": "many", "root": "/nowhere", "schema_version": SCHEMA_VERSION, "seed": seed, "seconds": 1.0}]
    tables = {"images": images, "classes": classes, "runs": runs}
    made = {name: pd.DataFrame(rows).reindex(columns=[column for column, _, _ in TABLES[name]])
            for name, rows in tables.items()}  # fmt: skip
    manifest.write(run, {name: manifest.empty(name) for name in TABLES} | made)
