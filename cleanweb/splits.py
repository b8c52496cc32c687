"""Which split each image belongs to: stratified by label, and the same picture never in two splits.

Shares are of pictures, of each label for itself: a group of copies counts once and stays together. They round by
largest remainder (of 7 pictures 0.9 and 0.1 take 6 and 1), and then a split that would get none of a label takes one
from the fullest (of 4 pictures 3 and 1). A label with fewer pictures than there are splits goes to the largest splits.
Who goes where depends on the seed and the group alone, not on the order of the rows.
"""

import hashlib
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from cleanweb.errors import UsageError
from cleanweb.safenames import safe


def parse(text: str) -> dict[str, float]:
    """'train=0.9,val=0.1' → the share of each split, in that order. Raises UsageError."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = (piece.strip() for piece in part.partition("="))
        good = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,31}", name) and safe(name) == name
        if not good or name.lower() in map(str.lower, shares):
            words = "is there twice" if good else "is no name of a split"
            raise UsageError(f"--split {text}: {name!r} {words}. Write it as train=0.9,val=0.1.")
        try:
            shares[name] = float(share)
        except ValueError:
            raise UsageError(f"--split {text}: {share!r} is no number. Write it as train=0.9,val=0.1.") from None
        if not 0 < shares[name] <= 1:
            raise UsageError(f"--split {text}: a share is above 0 and up to 1, not {share}.")
    if not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise UsageError(f"--split {text}: the shares add up to {sum(shares.values()):.6g}, not to 1.")
    return shares


def assign(labels: Sequence[str | None], groups: Sequence[str], shares: Mapping[str, float], seed: int) -> list[str]:
    """The split of each of n images. groups (n,): equal for copies of a picture, whose first row's label counts."""
    label_of = dict(zip(reversed(groups), reversed(labels), strict=True))  # the first row is the last to be put in
    strata: dict[str | None, list[str]] = defaultdict(list)
    for group, label in label_of.items():
        strata[label].append(group)
    split_of: dict[str, str] = {}
    for members in strata.values():
        drawn = sorted(members, key=lambda group: hashlib.blake2b(f"{seed}:{group}".encode()).digest())
        sizes = sizes_of(len(drawn), list(shares.values()))
        names = [name for name, size in zip(shares, sizes, strict=True) for _ in range(size)]
        split_of |= dict(zip(drawn, names, strict=True))
    return [split_of[group] for group in groups]


def sizes_of(n: int, shares: Sequence[float]) -> list[int]:
    """How many of n pictures each split gets."""
    if n < len(shares):
        largest = sorted(range(len(shares)), key=lambda i: -shares[i])[:n]
        return [int(i in largest) for i in range(len(shares))]
    sizes = [math.floor(n * share + 1e-9) for share in shares]
    remainders = [round(n * share - size, 9) for share, size in zip(shares, sizes, strict=True)]
    for i in sorted(range(len(shares)), key=lambda i: -remainders[i])[: n - sum(sizes)]:
        sizes[i] += 1
    while 0 in sizes:
        fullest, empty = sizes.index(max(sizes)), sizes.index(0)
        sizes[fullest] -= 1
        sizes[empty] += 1
    return sizes
