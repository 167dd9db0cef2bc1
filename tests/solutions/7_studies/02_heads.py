"""Solutions of 7.2."""

import torch


def correlation_left(a, m, h):
    left = [x - h * (h * x).sum() / (h * h).sum() for x in (a, m)]
    return torch.corrcoef(torch.stack(left))[0, 1]


def forgets_the_scale_of_h(a, m, h):
    left = [x - h * (h * x).mean() for x in (a, m)]
    return torch.corrcoef(torch.stack(left))[0, 1]


def plain_correlation(a, m, h):
    return torch.corrcoef(torch.stack([a, m]))[0, 1]


def separate_mask(S, T):
    stream = torch.arange(S).repeat_interleave(T)
    return stream[:, None] == stream


def counts_token_by_token(S, T):
    stream = torch.arange(T).repeat(S)
    return stream[:, None] == stream


def reads_earlier_tokens_only(S, T):
    return separate_mask(S, T).tril()


WRONG = {
    "correlation_left": [forgets_the_scale_of_h, plain_correlation],
    "separate_mask": [counts_token_by_token, reads_earlier_tokens_only],
}
