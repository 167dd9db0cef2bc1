"""Solutions of 3.2."""

import math

import torch


def rotate_one(x, position, theta):
    head_dim = len(x)
    rotated = torch.empty_like(x)
    for i in range(head_dim // 2):
        angle = position * theta ** (-2 * i / head_dim)
        a, b = x[2 * i], x[2 * i + 1]
        rotated[2 * i] = a * math.cos(angle) - b * math.sin(angle)
        rotated[2 * i + 1] = b * math.cos(angle) + a * math.sin(angle)
    return rotated


def pairs_the_halves(x, position, theta):
    rotated = rotate_one(x.view(2, -1).T.reshape(-1), position, theta)
    return rotated.view(-1, 2).T.reshape(-1)


def turns_backwards(x, position, theta):
    return rotate_one(x, -position, theta)


def forgets_the_two(x, position, theta):
    return rotate_one(x, position, theta**0.5)


def overwrites_the_first_of_a_pair_too_early(x, position, theta):
    rotated = x.clone()
    for i in range(len(x) // 2):
        angle = position * theta ** (-2 * i / len(x))
        cos, sin = math.cos(angle), math.sin(angle)
        rotated[2 * i] = rotated[2 * i] * cos - rotated[2 * i + 1] * sin
        rotated[2 * i + 1] = rotated[2 * i + 1] * cos + rotated[2 * i] * sin
    return rotated


def causal_attention(q, k, v):
    rows = []
    for s in range(len(q)):
        scores = k[: s + 1] @ q[s] / math.sqrt(q.shape[1])  # (s + 1,)
        rows.append(scores.softmax(0) @ v[: s + 1])
    return torch.stack(rows)


def sees_everything(q, k, v):
    return (q @ k.T / math.sqrt(q.shape[1])).softmax(-1) @ v


def forgets_to_divide(q, k, v):
    return causal_attention(q * math.sqrt(q.shape[1]), k, v)


def hides_the_future_with_zeros(q, k, v):
    return (q @ k.T / math.sqrt(q.shape[1])).tril().softmax(-1) @ v


def hides_weights_after_the_softmax(q, k, v):
    return (q @ k.T / math.sqrt(q.shape[1])).softmax(-1).tril() @ v


def hides_itself(q, k, v):
    rows = [v[0]]
    for s in range(1, len(q)):
        scores = k[:s] @ q[s] / math.sqrt(q.shape[1])
        rows.append(scores.softmax(0) @ v[:s])
    return torch.stack(rows)


WRONG = {
    "rotate_one": [
        pairs_the_halves,
        turns_backwards,
        forgets_the_two,
        overwrites_the_first_of_a_pair_too_early,
    ],
    "causal_attention": [
        sees_everything,
        forgets_to_divide,
        hides_the_future_with_zeros,
        hides_weights_after_the_softmax,
        hides_itself,
    ],
}
