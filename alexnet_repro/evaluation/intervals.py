"""95 % intervals: how far a number measured on so many pictures may be from the number on all pictures of their kind.

They say nothing of other seeds: a run trained again from other random numbers moves by more than this.
"""

import numpy as np

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
