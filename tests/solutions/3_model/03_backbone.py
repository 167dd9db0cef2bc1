"""Solutions of 3.3."""

import math

import torch


def read_with_cache(keys, values, q, k, v):
    keys = torch.cat([keys, k[None]])
    values = torch.cat([values, v[None]])
    scores = keys @ q / math.sqrt(len(q))  # (n + 1,)
    return scores.softmax(0) @ values, keys, values


def reads_before_it_writes(keys, values, q, k, v):
    read = (keys @ q / math.sqrt(len(q))).softmax(0) @ values
    return read, torch.cat([keys, k[None]]), torch.cat([values, v[None]])


def forgets_to_divide(keys, values, q, k, v):
    return read_with_cache(keys, values, q * math.sqrt(len(q)), k, v)


def puts_the_new_one_first(keys, values, q, k, v):
    read, _, _ = read_with_cache(keys, values, q, k, v)
    return read, torch.cat([k[None], keys]), torch.cat([v[None], values])


def keeps_queries(keys, values, q, k, v):
    read, _, values = read_with_cache(keys, values, q, k, v)
    return read, torch.cat([keys, q[None]]), values


def readable(lengths, n_tokens, max_len):
    rows = []
    for length in lengths:
        tokens = []
        for token in range(n_tokens):
            position = length + token
            tokens.append([entry <= position for entry in range(max_len)])
        rows.append(tokens)
    return rows


def hides_the_token_from_itself(lengths, n_tokens, max_len):
    return [
        [[entry < length + token for entry in range(max_len)] for token in range(n_tokens)]
        for length in lengths
    ]


def lets_all_new_tokens_read_each_other(lengths, n_tokens, max_len):
    return [
        [[entry < length + n_tokens for entry in range(max_len)] for _ in range(n_tokens)]
        for length in lengths
    ]


def takes_the_longest_row_for_all(lengths, n_tokens, max_len):
    return readable([max(lengths)] * len(lengths), n_tokens, max_len)


WRONG = {
    "read_with_cache": [
        reads_before_it_writes,
        forgets_to_divide,
        puts_the_new_one_first,
        keeps_queries,
    ],
    "readable": [
        hides_the_token_from_itself,
        lets_all_new_tokens_read_each_other,
        takes_the_longest_row_for_all,
    ],
}
