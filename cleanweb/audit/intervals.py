"""What a random sample says of a whole that is counted: exact intervals of one share, honest ones of what follows from
several.

Each part of the whole has `total` members, of which `seen` were drawn at random and looked at, and `right` were found
right. How many of all are right is unknown: K. Let r(k) be the rank, among all members, of the k-th smallest of the
drawn ones. Whatever K is, P(at least k of the drawn are right) = P(r(k) ≤ K): a hypergeometric tail is a distribution
of ranks, r(k) − k ~ beta-binomial(total − seen, k, seen − k + 1). The exact (Clopper–Pearson) limits of K are quantiles
of r(right) and of r(right + 1) − 1.

Melded intervals (Fay, Proschan & Brittain, Biometrics 71, 2015) put those two distributions in the place of the unknown
K of every part, the lower one where the quantity grows with K and the upper where it falls, and take quantiles of the
result. With one part they are the exact interval. In eight simulated crawls of three parts, 200 members drawn, they
held recall and noise rate in 96 to 99.8 % of 600 rounds each; Bayesian ones (Jeffreys) in 92 to 98 %, least where a
part showed nothing right. They are 7 to 44 % wider for it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import hypergeom

LEVEL = 0.95  # each interval for itself
_DRAWS = 10_000
_ROUGH = 2_000  # where only the number of further samples hangs on it


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the whole, and what a random sample of it has shown."""

    total: int  # members
    seen: int  # drawn and judged
    right: int  # of these
    unknown: int = 0  # drawn, but without a judgement
    rising: bool = True  # whether what is estimated grows with the number that are right


Quantity = Callable[..., np.ndarray]  # a share, from one array per part: how many of its members are right


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share, with its interval; None where nothing was seen that tells it."""

    value: float | None
    low: float
    high: float
    lowest: float  # the interval's ends, were every drawn member without a judgement against it
    highest: float  # or for it


def exact(right: int, seen: int, total: int) -> tuple[float, float]:
    """The exact interval of the share of right members. Clopper–Pearson's, where the whole is large."""
    if not 0 <= right <= seen <= total or not total:
        raise ValueError(f"no sample: {right} right of {seen} seen of {total}")
    tail = (1 - LEVEL) / 2
    possible = range(right, total - seen + right + 1)  # K; the tails are monotone in it
    low = bisect_right(possible, tail, key=lambda k: hypergeom.sf(right - 1, total, k, seen)) if right else 0
    few = lambda k: -hypergeom.cdf(right, total, k, seen)  # noqa: E731
    beyond = bisect_left(possible, -tail, key=few) if right < seen else len(possible)
    return possible[low] / total, possible[beyond - 1] / total


def estimate(parts: Sequence[Part], quantity: Quantity) -> Estimate:
    """`quantity` must grow with the right members of every rising part and fall with those of the others."""
    low, high = _interval(parts, quantity, _DRAWS)
    if not any(part.unknown for part in parts):
        return Estimate(_value(parts, quantity), low, high, low, high)
    against = [_judged(part, right=not part.rising) for part in parts]
    for_it = [_judged(part, right=part.rising) for part in parts]
    lowest, highest = _interval(against, quantity, _DRAWS)[0], _interval(for_it, quantity, _DRAWS)[1]
    return Estimate(_value(parts, quantity), low, high, min(low, lowest), max(high, highest))


def further(parts: Sequence[Part], quantity: Quantity, half_width: float) -> list[int] | None:
    """How many more of each part, taken in the proportions of those seen, bring the interval to ± half_width, if what
    is seen stays as it is. None where nothing was seen of some part."""
    if any(part.total and not part.seen for part in parts):
        return None

    def grown(factor: float) -> list[Part]:
        return [_grown(part, factor) for part in parts]

    def enough(factor: float) -> bool:
        low, high = _interval(grown(factor), quantity, _ROUGH)
        return high - low <= 2 * half_width

    too_few, many = 1.0, 1.0
    while not enough(many):  # it ends: all that are there are enough
        too_few, many = many, 2 * many
    while many - too_few > 0.01 * many and many > 1:
        middle = (too_few + many) / 2
        too_few, many = (too_few, middle) if enough(middle) else (middle, many)
    return [new.seen - part.seen for new, part in zip(grown(many), parts, strict=True)]


def allocate(n: int, totals: Sequence[int]) -> list[int]:
    """How many of n to draw from each part: as the square roots of their sizes, at least a tenth of n, at most all.

    Shares in proportion would serve the whole best and leave little to see in a small part; equal ones would serve
    each part best and the whole badly. The square root lies between (Bankier's power allocation). Neyman's would ask
    how often each part is wrong, which is what is to be found out.
    """
    weight = np.sqrt(np.array(totals, float))
    floor = np.minimum(totals, -(-n // 10))
    if n >= sum(totals):
        return [int(total) for total in totals]
    sizes = np.clip(_scale(n, weight, floor, totals) * weight, floor, totals)
    whole = np.floor(sizes + 1e-6).astype(int)
    rest = n - int(whole.sum())
    for i in np.argsort(-(sizes - whole), kind="stable")[: max(rest, 0)]:
        whole[i] += whole[i] < totals[i]
    return [int(size) for size in whole]


def _scale(n: int, weight: np.ndarray, floor: np.ndarray, totals: Sequence[int]) -> float:
    """The factor of the weights at which all parts together have n."""
    low, high = 0.0, float(max(totals))
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if np.clip(middle * weight, floor, totals).sum() >= n else (middle, high)
    return high


def _interval(parts: Sequence[Part], quantity: Quantity, draws: int) -> tuple[float, float]:
    """Of one part: exact, so far as `quantity` of its ends is. Of several: melded, from the same draws every time."""
    tail = (1 - LEVEL) / 2
    if len(parts) == 1:
        part = parts[0]
        ends = [quantity(np.array(share * part.total)) for share in exact(part.right, part.seen, part.total)]
        return float(min(ends)), float(max(ends))
    rng = np.random.default_rng(0)
    few, many = zip(*(_limits(part, draws, rng) for part in parts), strict=True)
    at_least = quantity(*(f if part.rising else m for part, f, m in zip(parts, few, many, strict=True)))
    at_most = quantity(*(m if part.rising else f for part, f, m in zip(parts, few, many, strict=True)))
    at_least, at_most = np.nan_to_num(at_least, nan=0.0), np.nan_to_num(at_most, nan=1.0)  # 0 of 0: nothing is known
    return float(np.quantile(at_least, tail, method="lower")), float(np.quantile(at_most, 1 - tail, method="higher"))


def _limits(part: Part, draws: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws of the two limits of K: r(right) and r(right + 1) − 1, each (draws,)."""
    rest, right, seen = part.total - part.seen, part.right, part.seen
    return right + _ranks(rest, right, seen, draws, rng), right + _ranks(rest, right + 1, seen, draws, rng)


def _ranks(rest: int, k: int, seen: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """r(k) − k: of the `rest` that were not drawn, how many lie below the k-th smallest of the drawn."""
    if k == 0:
        return np.zeros(draws)
    if k > seen:
        return np.full(draws, float(rest))
    return rng.binomial(rest, rng.beta(k, seen - k + 1, draws)).astype(float)


def _value(parts: Sequence[Part], quantity: Quantity) -> float | None:
    if any(part.total and not part.seen for part in parts):
        return None
    value = float(quantity(*(np.array(part.total * part.right / max(part.seen, 1)) for part in parts)))
    return None if np.isnan(value) else value


def _judged(part: Part, right: bool) -> Part:
    """The part, had all of it that is unknown been found right, or none."""
    return replace(part, seen=part.seen + part.unknown, right=part.right + right * part.unknown, unknown=0)


def _grown(part: Part, factor: float) -> Part:
    seen = min(part.total, round(part.seen * factor))
    return replace(part, seen=seen, right=round(part.right * seen / max(part.seen, 1)), unknown=0)
