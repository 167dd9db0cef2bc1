"""Solutions of 1.1."""

import numpy as np


def symbols_of_frames(phonemes, n_frames):
    symbols = []
    for frame in range(n_frames):
        middle = (frame + 0.5) / 25
        symbols += [p.symbol for p in phonemes if p.start <= middle < p.end]
    return symbols


def listens_at_the_beginning_of_a_frame(phonemes, n_frames):
    times = [frame / 25 for frame in range(n_frames)]
    return [next(p.symbol for p in phonemes if p.start <= time < p.end) for time in times]


def rounds_each_phoneme_up(phonemes, n_frames):
    symbols = []
    for p in phonemes:
        symbols += [p.symbol] * (int(np.ceil(25 * p.end)) - len(symbols))
    return symbols[:n_frames]


def leaves_the_first_moment_out(phonemes, n_frames):
    times = [(frame + 0.5) / 25 for frame in range(n_frames)]
    return [next(p.symbol for p in phonemes if p.start < time <= p.end) for time in times]


def repeat_lag(wav, shortest, longest):
    likeness = {}
    for lag in range(shortest, longest + 1):
        likeness[lag] = np.mean(wav[:-lag] * wav[lag:])
    return max(likeness, key=likeness.get)


def takes_sums(wav, shortest, longest):
    likeness = [np.sum(wav[:-lag] * wav[lag:]) for lag in range(shortest, longest + 1)]
    return shortest + int(np.argmax(likeness))


def never_tries_the_longest(wav, shortest, longest):
    likeness = [np.mean(wav[:-lag] * wav[lag:]) for lag in range(shortest, longest)]
    return shortest + int(np.argmax(likeness))


def counts_from_zero(wav, shortest, longest):
    likeness = [np.mean(wav[:-lag] * wav[lag:]) for lag in range(shortest, longest + 1)]
    return int(np.argmax(likeness))


WRONG = {
    "symbols_of_frames": [
        listens_at_the_beginning_of_a_frame,
        rounds_each_phoneme_up,
        leaves_the_first_moment_out,
    ],
    "repeat_lag": [takes_sums, never_tries_the_longest, counts_from_zero],
}
