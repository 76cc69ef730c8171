"""95 % intervals: how far a number measured on so many pictures may be from the number on all pictures of their kind.

All but `crossed_interval` say nothing of other seeds: a run trained again from other random numbers moves by more.
"""

import numpy as np
from scipy.stats import t as student

Interval = tuple[float, float]

_Z = 1.959963984540054  # the standard normal distribution has 95 % within this many standard deviations


def proportion_interval(wrong: int, images: int) -> Interval:
    """Wilson's score interval of an error rate, as fractions.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927. Unlike the usual
    p +- z sqrt(p (1-p) / n) it holds for small numbers and for errors near 0 and 1.
    """
    p, z2 = wrong / images, _Z**2 / images
    centre = (p + z2 / 2) / (1 + z2)
    half = _Z / (1 + z2) * np.sqrt(p * (1 - p) / images + z2 / (4 * images))
    # At 0 and at `images` the formula touches 0 and 1 but for rounding.
    low = 0.0 if wrong == 0 else float(centre - half)
    return low, 1.0 if wrong == images else float(centre + half)


def mean_interval(values: np.ndarray) -> Interval:
    """Of a mean of independent values, by the central limit theorem: float [N]. Infinite for a single value."""
    if len(values) < 2:
        return float("-inf"), float("inf")
    mean, half = float(values.mean()), _Z * float(values.std(ddof=1)) / np.sqrt(len(values))
    return mean - half, mean + float(half)


def paired_bootstrap(first: np.ndarray, second: np.ndarray, resamples: int, seed: int) -> Interval:
    """Of mean(second) - mean(first), both measured on the same pictures: bool [N] each (wrong or not).

    Pictures are drawn again with replacement, each with both its outcomes, `resamples` times; the interval is from the
    2.5th to the 97.5th percentile of the differences (Efron's percentile bootstrap). A picture contributes -1, 0 or 1,
    so a resample is one multinomial draw of how often each occurs.
    """
    difference = second.astype(np.int64) - first.astype(np.int64)
    images = len(difference)
    shares = np.array([(difference == value).sum() for value in (-1, 0, 1)]) / images
    drawn = np.random.default_rng(seed).multinomial(images, shares, size=resamples)  # [resamples, 3]
    low, high = np.percentile((drawn[:, 2] - drawn[:, 0]) / images, (2.5, 97.5))
    return float(low), float(high)


def crossed_interval(differences: np.ndarray) -> Interval:
    """Of a mean over pictures and seeds, both drawn by chance and crossed: [S, N], S and N 2 or more, one number for
    each seed and picture (of two networks: -1, 0 or 1, wrong there minus wrong here).

    The two-way random-effects analysis of variance without replication (Scheffe, The Analysis of Variance, 1959,
    chapter 7): the mean's variance is (MS_pictures + MS_seeds - MS_residual) / (N S), here no less than either source
    alone, MS / (N S), would give; degrees of freedom by Satterthwaite, An approximate distribution of estimates of
    variance components, 1946. With two seeds it rests on one degree of freedom where seeds matter, and is wide.
    """
    seeds, pictures = differences.shape
    assert seeds >= 2 and pictures >= 2
    mean = float(differences.mean())
    of_seeds, of_pictures = differences.mean(axis=1), differences.mean(axis=0)
    rest = differences - of_seeds[:, None] - of_pictures + mean
    freedom = np.array([pictures - 1, seeds - 1, (pictures - 1) * (seeds - 1)])
    sums = seeds * ((of_pictures - mean) ** 2).sum(), pictures * ((of_seeds - mean) ** 2).sum(), (rest**2).sum()
    squares = np.array(sums) / freedom  # mean squares of pictures, seeds, and what is left
    total = max(squares[0] + squares[1] - squares[2], squares[0], squares[1])
    if total <= 0:
        return mean, mean
    effective = total**2 / (squares**2 / freedom).sum()
    half = float(student.ppf(0.975, effective) * np.sqrt(total / (pictures * seeds)))
    return mean - half, mean + half
