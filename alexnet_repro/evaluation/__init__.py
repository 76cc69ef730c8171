"""From a trained run to numbers: probabilities over views, error rates, intervals, comparisons."""
