"""Solutions of 3.6."""

import math

import torch


def clock_hands(t, width):
    half = width // 2
    sines, cosines = [], []
    for k in range(half):
        frequency = 10_000 ** (-k / (half - 1))
        sines.append(math.sin(1000 * t * frequency))
        cosines.append(math.cos(1000 * t * frequency))
    return sines + cosines


def never_reaches_the_slowest(t, width):
    half = width // 2
    angles = [1000 * t * 10_000 ** (-k / half) for k in range(half)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


def forgets_the_thousand(t, width):
    return clock_hands(t / 1000, width)


def takes_turns(t, width):
    hands = clock_hands(t, width)
    return [hand for pair in zip(hands[: width // 2], hands[width // 2 :]) for hand in pair]


def falls_evenly(t, width):
    angles = [1000 * t * float(f) for f in torch.linspace(1, 1e-4, width // 2)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


def head_rows(is_target, hidden, previous_patch, condition):
    states, before, conditions = [], [], []
    for sample in range(len(is_target)):
        for patch in range(is_target.shape[1]):
            if is_target[sample, patch]:
                states.append(hidden[sample, patch])
                before.append(previous_patch[sample, patch])
                conditions.append(condition[sample])
    return torch.stack(states), torch.stack(before), torch.stack(conditions)


def takes_all_patches(is_target, hidden, previous_patch, condition):
    return head_rows(torch.ones_like(is_target), hidden, previous_patch, condition)


def counts_targets_from_the_left(is_target, hidden, previous_patch, condition):
    counts = is_target.sum(1)
    first = torch.arange(is_target.shape[1]) < counts[:, None]
    return head_rows(first, hidden, previous_patch, condition)


def goes_patch_by_patch(is_target, hidden, previous_patch, condition):
    sample = torch.arange(len(is_target))[None].expand(is_target.shape[1], -1)[is_target.T]
    rows = hidden.transpose(0, 1)[is_target.T], previous_patch.transpose(0, 1)[is_target.T]
    return *rows, condition[sample]


def repeats_conditions_evenly(is_target, hidden, previous_patch, condition):
    states, before, _ = head_rows(is_target, hidden, previous_patch, condition)
    return states, before, condition.repeat_interleave(len(states) // len(condition), dim=0)


WRONG = {
    "clock_hands": [never_reaches_the_slowest, forgets_the_thousand, takes_turns, falls_evenly],
    "head_rows": [
        takes_all_patches,
        counts_targets_from_the_left,
        goes_patch_by_patch,
        repeats_conditions_evenly,
    ],
}
