"""Solutions of 6.1."""

import numpy as np


def middle_of_draws(errors, phonemes, draws):
    rates = []
    for clips in draws:
        rates.append(errors[clips].sum() / phonemes[clips].sum())
    low, high = np.quantile(rates, [0.025, 0.975])
    return low, high


def takes_the_mean_of_the_clips_rates(errors, phonemes, draws):
    rates = [(errors[clips] / phonemes[clips]).mean() for clips in draws]
    return tuple(np.quantile(rates, [0.025, 0.975]))


def divides_by_all_phonemes(errors, phonemes, draws):
    rates = [errors[clips].sum() / phonemes.sum() for clips in draws]
    return tuple(np.quantile(rates, [0.025, 0.975]))


def counts_each_clip_once(errors, phonemes, draws):
    rates = [errors[np.unique(clips)].sum() / phonemes[np.unique(clips)].sum() for clips in draws]
    return tuple(np.quantile(rates, [0.025, 0.975]))


def cuts_off_ten_percent(errors, phonemes, draws):
    rates = [errors[clips].sum() / phonemes[clips].sum() for clips in draws]
    return tuple(np.quantile(rates, [0.05, 0.95]))


def wilson(failures, n):
    rates = np.arange(10_001) / 10_000
    spread = np.sqrt(rates * (1 - rates) / n)
    kept = rates[np.abs(failures / n - rates) <= 1.96 * spread]
    return kept[0], kept[-1]


def takes_the_spread_of_the_counted_rate(failures, n):
    rate = failures / n
    half = 1.96 * np.sqrt(rate * (1 - rate) / n)
    return max(0, rate - half), min(1, rate + half)


def forgets_the_root_of_n(failures, n):
    rates = np.arange(10_001) / 10_000
    kept = rates[np.abs(failures / n - rates) <= 1.96 * np.sqrt(rates * (1 - rates))]
    return kept[0], kept[-1]


def takes_one_spread(failures, n):
    rates = np.arange(10_001) / 10_000
    kept = rates[np.abs(failures / n - rates) <= np.sqrt(rates * (1 - rates) / n)]
    return kept[0], kept[-1]


WRONG = {
    "middle_of_draws": [
        takes_the_mean_of_the_clips_rates,
        divides_by_all_phonemes,
        counts_each_clip_once,
        cuts_off_ten_percent,
    ],
    "wilson": [takes_the_spread_of_the_counted_rate, forgets_the_root_of_n, takes_one_spread],
}
