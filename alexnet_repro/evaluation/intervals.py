"""95 % confidence intervals. What an interval covers differs:

- `proportion_interval`, `mean_interval`, `paired_bootstrap`: the sampling of test images, for the networks at hand. A
  network trained from another seed moves by more.
- `seed_interval`: the training seeds, on the test images at hand.

scipy.stats is imported where it is used: that takes a third as long as PyTorch's import, and training does not use it.
"""

import numpy as np

Interval = tuple[float, float]


def proportion_interval(wrong: int, images: int) -> Interval:
    """Wilson's score interval of an error rate, as fractions: `wrong` of `images`, which are 1 or more.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927. Unlike the usual
    p +- z sqrt(p (1-p) / n) it holds for small numbers and for errors near 0 and 1.
    """
    from scipy import stats

    low, high = stats.binomtest(wrong, images).proportion_ci(0.95, method="wilson")
    # With no or only wrong images the interval ends at exactly 0 or 1, from which rounding would stray.
    return 0.0 if wrong == 0 else float(low), 1.0 if wrong == images else float(high)


def mean_interval(values: np.ndarray) -> Interval:
    """The interval of the mean of independent values, by the central limit theorem: float [N], N of 2 or more."""
    from scipy import stats

    return _around_mean(values, stats.norm.ppf(0.975))


def seed_interval(differences: np.ndarray) -> Interval:
    """Student's t interval of a mean over seeds: float [S], one value a seed, S of 2 or more.

    Of two groups of runs the values are differences of error rates between runs of the same seed, so this is the
    paired t interval. With two seeds it rests on one degree of freedom and is wide.
    """
    from scipy import stats

    return _around_mean(differences, stats.t.ppf(0.975, len(differences) - 1))


def _around_mean(values: np.ndarray, standard_errors: float) -> Interval:
    """scipy's ttest_1samp(...).confidence_interval() is the same, but NaN where all values are equal."""
    mean, half = values.mean(), standard_errors * values.std(ddof=1) / np.sqrt(len(values))
    return float(mean - half), float(mean + half)


def paired_bootstrap(first: np.ndarray, second: np.ndarray, resamples: int, seed: int) -> Interval:
    """The interval of mean(second) - mean(first), both measured on the same images: bool [N] each (wrong or not).

    Images are drawn again with replacement, each with both its outcomes, `resamples` times; the interval is from the
    2.5th to the 97.5th percentile of the differences (Efron's percentile bootstrap). An image contributes -1, 0 or 1,
    so a resample is one multinomial draw of how often each occurs.
    """
    images = len(first)
    shares = np.bincount(second.astype(np.int64) - first + 1, minlength=3) / images  # of -1, 0, 1
    drawn = np.random.default_rng(seed).multinomial(images, shares, size=resamples)  # [resamples, 3]
    low, high = np.percentile((drawn[:, 2] - drawn[:, 0]) / images, (2.5, 97.5))
    return float(low), float(high)
