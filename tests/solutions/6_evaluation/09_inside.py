"""Solutions of 6.9."""

import torch


def weights_of_one(query, keys, count):
    scores = keys @ query / len(query) ** 0.5
    weights = torch.zeros(len(keys))
    weights[:count] = scores[:count].softmax(0)
    return weights


def forgets_the_scale(query, keys, count):
    weights = torch.zeros(len(keys))
    weights[:count] = (keys @ query)[:count].softmax(0)
    return weights


def masks_after_the_softmax(query, keys, count):
    weights = (keys @ query / len(query) ** 0.5).softmax(0)
    weights[count:] = 0
    return weights


def where_it_ends(x, t, x_next, t_next):
    return x - t * (x - x_next) / (t - t_next)


def walks_away(x, t, x_next, t_next):
    return x + t * (x - x_next) / (t - t_next)


def goes_too_far(x, t, x_next, t_next):
    return x_next - t * (x - x_next) / (t - t_next)


WRONG = {
    "weights_of_one": [forgets_the_scale, masks_after_the_softmax],
    "where_it_ends": [walks_away, goes_too_far],
}
