"""Solutions of 7.4."""


def peak_place(left, middle, right):
    return 0.5 * (left - right) / (left - 2 * middle + right)


def has_the_wrong_sign(left, middle, right):
    return 0.5 * (right - left) / (left - 2 * middle + right)


def takes_the_mean_of_places(left, middle, right):
    return (right - left) / (left + middle + right)


WRONG = {"peak_place": [has_the_wrong_sign, takes_the_mean_of_places]}
