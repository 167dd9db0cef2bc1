"""Solutions of 5.1."""

import torch


def clip_length(probabilities, threshold, streak, min_patches):
    alarms = 0
    for patches, probability in enumerate(probabilities, 1):
        if patches < min_patches:
            continue
        alarms = alarms + 1 if probability >= threshold else 0
        if alarms == streak:
            return patches
    return None


def wants_more_than_the_threshold(probabilities, threshold, streak, min_patches):
    return clip_length(probabilities, threshold + 1e-9, streak, min_patches)


def begins_to_ask_too_late(probabilities, threshold, streak, min_patches):
    return clip_length(probabilities, threshold, streak, min_patches + 1)


def remembers_early_alarms(probabilities, threshold, streak, min_patches):
    alarms = 0
    for patches, probability in enumerate(probabilities, 1):
        alarms = alarms + 1 if probability >= threshold else 0
        if alarms >= streak and patches >= min_patches:
            return patches
    return None


def counts_alarms_that_are_apart(probabilities, threshold, streak, min_patches):
    alarms = 0
    for patches, probability in enumerate(probabilities, 1):
        alarms += patches >= min_patches and probability >= threshold
        if alarms == streak:
            return patches
    return None


def leaves_the_last_patch_out(probabilities, threshold, streak, min_patches):
    length = clip_length(probabilities, threshold, streak, min_patches)
    return None if length is None else length - 1


def own_noise(seeds, shape):
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rows.append(torch.randn(shape, generator=generator))
    return torch.stack(rows)


def shares_one_generator(seeds, shape):
    generator = torch.Generator().manual_seed(seeds[0])
    return torch.stack([torch.randn(shape, generator=generator) for _ in seeds])


def seeds_by_place(seeds, shape):
    rows = [torch.Generator().manual_seed(seed + place) for place, seed in enumerate(seeds)]
    return torch.stack([torch.randn(shape, generator=generator) for generator in rows])


def draws_evenly(seeds, shape):
    rows = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack([torch.rand(shape, generator=generator) for generator in rows])


def takes_numbers_as_they_come(seeds, shape):
    return torch.randn(len(seeds), *shape)


def drawn_at_each_patch(num_patches, given):
    drawn = []
    for patch in range(num_patches):
        drawn.append([name for name in ("audio", "motion") if patch >= given.get(name, 0)])
    return drawn


def draws_one_too_late(num_patches, given):
    return drawn_at_each_patch(num_patches, {name: count + 1 for name, count in given.items()})


def takes_a_given_stream_for_all_of_the_clip(num_patches, given):
    return [[name for name in ("audio", "motion") if name not in given]] * num_patches


def names_what_is_given(num_patches, given):
    both = ("audio", "motion")
    return [[name for name in both if patch < given.get(name, 0)] for patch in range(num_patches)]


WRONG = {
    "clip_length": [
        wants_more_than_the_threshold,
        begins_to_ask_too_late,
        remembers_early_alarms,
        counts_alarms_that_are_apart,
        leaves_the_last_patch_out,
    ],
    "own_noise": [shares_one_generator, seeds_by_place, draws_evenly, takes_numbers_as_they_come],
    "drawn_at_each_patch": [
        draws_one_too_late,
        takes_a_given_stream_for_all_of_the_clip,
        names_what_is_given,
    ],
}
