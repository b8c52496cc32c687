"""The drawings of the report as numbers: where each bar, ribbon and line lies. The template only puts them down.

Every drawing has a box of its own, x to the right and y down, as SVG counts.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

JUDGED = ("clean", "relabeled", "ood")

FLOW = (1000, 200)  # width, height
_ROW, _ROWS, _GAP = 40, (0, 80, 160), 16  # height of a bar, where the three rows begin, space between neighbours

CHART = (420, 210)
LEFT, RIGHT, TOP, BOTTOM = 52, 408, 12, 170  # of the plot inside the chart; what is around it is for the axes' words
BINS = 20
MOST_POINTS = 300  # of a line: more than a screen can show would only make the file larger


def flow(counts: Mapping[str, int]) -> dict[str, list[dict[str, object]]]:
    """verdict → images, as bars in three rows, read → usable → judged, and the ribbons between them."""
    total = sum(counts.values())
    scale = (FLOW[0] - 3 * _GAP) / max(total, 1)
    usable = total - counts["unusable"]
    read = _bar("read", total, 1.5 * _GAP, 0, scale)
    middle = _bar("usable", usable, _GAP, 1, scale)
    at, last = 0.0, []
    for verdict in JUDGED:
        last.append(_bar(verdict, counts[verdict], at, 2, scale))
        at += counts[verdict] * scale + _GAP
    lost = _bar("unusable", counts["unusable"], at, 1, scale)
    bars = [bar for bar in (read, middle, lost, *last) if bar["images"]]
    ribbons = _ribbons(read, [middle, lost]) + _ribbons(middle, last)
    return {"bars": bars, "ribbons": ribbons}


def _bar(name: str, images: int, x: float, row: int, scale: float) -> dict[str, object]:
    return {"name": name, "images": images, "x": round(x, 1), "y": _ROWS[row], "width": round(images * scale, 1),
            "height": _ROW}  # fmt: skip


def _ribbons(above: Mapping[str, Any], below: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """One from the bar above to each below, side by side above, in their order."""
    x, y, ribbons = above["x"], above["y"] + _ROW, []
    for bar in below:
        a, b, c, d = x, x + bar["width"], bar["x"] + bar["width"], bar["x"]
        end, middle = bar["y"], (y + bar["y"]) / 2
        there = f"M{a:.1f},{y} L{b:.1f},{y} C{b:.1f},{middle} {c:.1f},{middle} {c:.1f},{end}"
        back = f"L{d:.1f},{end} C{d:.1f},{middle} {a:.1f},{middle} {a:.1f},{y} Z"
        if bar["images"]:
            ribbons.append({"name": bar["name"], "path": f"{there} {back}"})
        x = b
    return ribbons


def histogram(values: Mapping[str, np.ndarray], above: str) -> dict[str, object]:
    """name → values in [0, 1], as stacked bars of `BINS` equal bins; and their counts, a row per bin. The threshold is
    the least value that is called `above`, None where none is."""
    edges = np.linspace(0, 1, BINS + 1)
    counts = {name: np.histogram(np.clip(found, 0, 1), edges)[0] for name, found in values.items()}
    highest = max(1, int(np.add.reduce([*counts.values()]).max()))
    width = (RIGHT - LEFT) / BINS
    bars = []
    for i in range(BINS):
        y = float(BOTTOM)
        for name, found in counts.items():
            if found[i]:
                height = max(1.5, float(found[i]) / highest * (BOTTOM - TOP))  # one of thousands is seen too
                y -= height
                bars.append({"name": name, "x": round(LEFT + i * width + 0.5, 1), "y": round(y, 1),
                             "width": round(width - 1, 1), "height": round(height, 1)})  # fmt: skip
    rows = [{"low": edges[i], "high": edges[i + 1], "counts": {n: int(c[i]) for n, c in counts.items()}}
            for i in range(BINS)]  # fmt: skip
    threshold = float(values[above].min()) if len(values[above]) else None
    x = None if threshold is None else round(LEFT + min(max(threshold, 0.0), 1.0) * (RIGHT - LEFT), 1)
    return {"bars": bars, "highest": highest, "rows": rows, "threshold": threshold, "threshold_x": x}


def line(x: Sequence[float], y: Sequence[float]) -> dict[str, object] | None:
    """Points as a line from 0, or below it where y is, to the highest; None where no point is finite."""
    points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if not points:
        return None
    step = -(-len(points) // MOST_POINTS)
    points = points[::step] + ([points[-1]] if (len(points) - 1) % step else [])
    first, last = points[0][0], points[-1][0]
    low, high = min(0.0, *(b for _, b in points)), max(0.0, *(b for _, b in points))
    places = [
        (LEFT + (a - first) / ((last - first) or 1) * (RIGHT - LEFT),
         BOTTOM - (b - low) / ((high - low) or 1) * (BOTTOM - TOP))
        for a, b in points
    ]  # fmt: skip
    drawn = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    return {"points": drawn, "first": first, "last": last, "low": low, "high": high, "begin": points[0][1],
            "end": points[-1][1], "end_y": round(places[-1][1], 1)}  # fmt: skip


def reliability(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """Rows of the manifest's table `reliability` as points, each with its Wilson interval of 95 %."""
    points = []
    for row in rows:
        n, share = int(row["images"]), row["share_right"]
        low, high = map(float, binomtest(round(share * n), n).proportion_ci(method="wilson"))
        points.append(dict(row) | {"low": low, "high": high, "x": round(LEFT + row["p_clean"] * (RIGHT - LEFT), 1),
                                   "y": _up(share), "y_low": _up(low), "y_high": _up(high)})  # fmt: skip
    return points


def _up(share: float) -> float:
    return round(BOTTOM - share * (BOTTOM - TOP), 1)
