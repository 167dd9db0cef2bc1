"""Solutions of 7.7."""


def reach(j, k, L):
    first = max(0, j - k + 1)
    return (first, L - 1) if first < L else None


def forgets_that_a_lead_of_one_is_the_present(j, k, L):
    first = max(0, j - k)
    return (first, L - 1) if first < L else None


def begins_before_the_clip(j, k, L):
    first = j - k + 1
    return (first, L - 1) if first < L else None


WRONG = {"reach": [forgets_that_a_lead_of_one_is_the_present, begins_before_the_clip]}
