"""The two-groups model: which of the observed scores come from a known null distribution, and with what probability.

    f(s) = (1 − π₀)·f₁(s) + π₀·f₀(s)          f₀ known by a sample, f₁ and π₀ not
    P(null | s) = π₀·f₀(s) / f(s)              the local false discovery rate (Efron, 2001)

Higher scores speak against the null. The ratio f₀/f is taken as falling in s (isotonic regression) and nothing else is
assumed: no shape, no width, no threshold. π₀ is the largest share of the null that fits under the observed lower tail
(Storey, 2002), so that with nothing to find nothing is found; one score more is counted there than was seen, lest few
scores leave nothing to the null by chance. An observed score may count for less than one.
"""

import numpy as np
from sklearn.isotonic import IsotonicRegression

_QUANTILES = np.linspace(0.5, 0.9, 9)  # where F/F₀ is read: a null that is a little too low leaves little below


def null_share(observed: np.ndarray, weight: np.ndarray, null: np.ndarray) -> float:
    """π₀ in [0, 1]: the least F(s)/F₀(s) over the null's quantiles. observed, weight (n,), null (m,)."""
    cuts = np.quantile(null, _QUANTILES)
    below_null = np.searchsorted(np.sort(null), cuts, side="right") / len(null)
    order = np.argsort(observed, kind="stable")
    mass = np.concatenate([[0.0], np.cumsum(weight[order])])
    below = (mass[np.searchsorted(observed[order], cuts, side="right")] + 1) / mass[-1]
    return float(np.clip((below / below_null).min(), 0, 1))


def density_ratio(observed: np.ndarray, weight: np.ndarray, null: np.ndarray, at: np.ndarray) -> np.ndarray:
    """f(s) / f₀(s) at scores `at`: > 0, not falling in s. observed, weight (n,), null (m,)."""
    scores = np.concatenate([observed, null])
    is_observed = np.concatenate([np.ones(len(observed)), np.zeros(len(null))])
    mass = np.concatenate([weight / weight.sum(), np.full(len(null), 1 / len(null))])
    fit = IsotonicRegression(y_min=1e-6, y_max=1 - 1e-6, out_of_bounds="clip").fit(scores, is_observed, mass)
    seen = fit.predict(at)  # f / (f + f₀)
    return seen / (1 - seen)


def null_probability(share: float, ratio: np.ndarray) -> np.ndarray:
    """P(null | s) = π₀ / (f(s) / f₀(s)): (n,) in [0, 1], of the `null_share` and the `density_ratio` (n,)."""
    return np.clip(share / ratio, 0, 1)
