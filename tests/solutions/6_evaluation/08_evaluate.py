"""Solutions of 6.8."""

import difflib

import numpy as np


def word_error_rate(said, heard):
    said, heard = said.split(), heard.split()
    cost = [[i + j for j in range(len(heard) + 1)] for i in range(len(said) + 1)]
    for i in range(1, len(said) + 1):
        for j in range(1, len(heard) + 1):
            replaced = cost[i - 1][j - 1] + (said[i - 1] != heard[j - 1])
            left_out = cost[i - 1][j] + 1
            put_in = cost[i][j - 1] + 1
            cost[i][j] = min(replaced, left_out, put_in)
    return cost[-1][-1] / len(said)


def compares_place_by_place(said, heard):
    said, heard = said.split(), heard.split()
    wrong = sum(a != b for a, b in zip(said, heard)) + abs(len(said) - len(heard))
    return wrong / len(said)


def divides_by_the_longer_text(said, heard):
    longer = max(len(said.split()), len(heard.split()))
    return word_error_rate(said, heard) * len(said.split()) / longer


def counts_letters(said, heard):
    return word_error_rate(" ".join(said.replace(" ", "_")), " ".join(heard.replace(" ", "_")))


def ignores_what_was_put_in(said, heard):
    said, heard = said.split(), heard.split()
    same = difflib.SequenceMatcher(None, said, heard, autojunk=False).get_matching_blocks()
    return 1 - sum(block.size for block in same) / len(said)


def counts_a_replaced_word_twice(said, heard):
    said, heard = said.split(), heard.split()
    same = difflib.SequenceMatcher(None, said, heard, autojunk=False).get_matching_blocks()
    return (len(said) + len(heard) - 2 * sum(block.size for block in same)) / len(said)


def frames_late(first, second, reach):
    found = {}
    for lag in range(-reach, reach + 1):
        before = first[max(0, -lag) : len(first) - max(0, lag)]
        after = second[max(0, lag) : len(second) - max(0, -lag)]
        found[lag] = np.corrcoef(before, after)[0, 1]
    return max(found, key=found.get)


def says_it_the_other_way_round(first, second, reach):
    return -frames_late(first, second, reach)


def looks_in_one_direction(first, second, reach):
    found = [np.corrcoef(first[: len(first) - k], second[k:])[0, 1] for k in range(reach + 1)]
    return int(np.argmax(found))


def counts_from_the_earliest_lag(first, second, reach):
    return frames_late(first, second, reach) + reach


def takes_products_as_they_are(first, second, reach):
    found = [
        (first[max(0, -k) : len(first) - max(0, k)] * second[max(0, k) : len(second) + min(0, k)])
        for k in range(-reach, reach + 1)
    ]
    return int(np.argmax([products.sum() for products in found])) - reach


def leaves_the_last_lag_out(first, second, reach):
    return frames_late(first, second, reach - 1)


WRONG = {
    "word_error_rate": [
        compares_place_by_place,
        divides_by_the_longer_text,
        counts_letters,
        ignores_what_was_put_in,
        counts_a_replaced_word_twice,
    ],
    "frames_late": [
        says_it_the_other_way_round,
        looks_in_one_direction,
        counts_from_the_earliest_lag,
        takes_products_as_they_are,
        leaves_the_last_lag_out,
    ],
}
