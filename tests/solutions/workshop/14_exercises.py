"""Solutions of W.14."""

from math import ceil


def patch_count(seconds):
    samples = round(24_000 * seconds)
    return ceil(samples / 3840)


def rounds_to_the_nearest(seconds):
    return round(seconds / 0.16)


def divides_seconds(seconds):
    return ceil(seconds / 0.16)


def forgets_that_a_patch_has_four_frames(seconds):
    return ceil(round(24_000 * seconds) / 960)


WRONG = {
    "patch_count": [rounds_to_the_nearest, divides_seconds, forgets_that_a_patch_has_four_frames]
}
