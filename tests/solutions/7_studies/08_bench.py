"""Solutions of 7.8."""

import numpy as np


def standard_errors(a, b):
    n = len(a)
    unpaired = np.sqrt(np.var(a, ddof=1) / n + np.var(b, ddof=1) / n)
    paired = np.std(b - a, ddof=1) / np.sqrt(n)
    return unpaired, paired


def adds_the_errors(a, b):
    n = len(a)
    unpaired = np.std(a, ddof=1) / np.sqrt(n) + np.std(b, ddof=1) / np.sqrt(n)
    return unpaired, np.std(b - a, ddof=1) / np.sqrt(n)


def forgets_the_root(a, b):
    unpaired, _ = standard_errors(a, b)
    return unpaired, np.std(b - a, ddof=1) / len(a)


def pairs_nothing(a, b):
    unpaired, _ = standard_errors(a, b)
    return unpaired, unpaired


WRONG = {"standard_errors": [adds_the_errors, forgets_the_root, pairs_nothing]}
