"""Solutions of 3.10."""

import torch


def mean_over_targets(errors, is_target):
    chosen = errors[is_target]
    if len(chosen) == 0:
        return errors.new_zeros(())
    return chosen.mean()


def takes_the_mean_of_means(errors, is_target):
    means = [row[mask].mean() for row, mask in zip(errors, is_target) if mask.any()]
    return torch.stack(means).mean() if means else errors.new_zeros(())


def divides_by_all_patches(errors, is_target):
    return torch.where(is_target, errors, 0).mean()


def multiplies_by_zero(errors, is_target):
    return (errors * is_target).sum() / is_target.sum().clamp(min=1)


def divides_by_zero(errors, is_target):
    return errors[is_target].mean()


def patch_before_each(patches):
    nothing = torch.zeros_like(patches[:, :1])
    return torch.cat([nothing, patches[:, :-1]], dim=1)


def rolls(patches):
    return patches.roll(1, dims=1)


def shifts_the_wrong_way(patches):
    return torch.cat([patches[:, 1:], torch.zeros_like(patches[:, :1])], dim=1)


def adds_one_place(patches):
    return torch.cat([torch.zeros_like(patches[:, :1]), patches], dim=1)


def shifts_frames(patches):
    frames = patches.flatten(1, 2)
    frames = torch.cat([torch.zeros_like(frames[:, :1]), frames[:, :-1]], dim=1)
    return frames.view(patches.shape)


def run(state, draw, read, is_over, most):
    patches = []
    while len(patches) < most:
        patch = draw(state)
        patches.append(patch)
        state = read(patch)
        if is_over(state):
            break
    return patches


def asks_before_it_draws(state, draw, read, is_over, most):
    patches = []
    while len(patches) < most and not is_over(state):
        patches.append(draw(state))
        state = read(patches[-1])
    return patches


def throws_the_last_patch_away(state, draw, read, is_over, most):
    patches = run(state, draw, read, is_over, most)
    return patches[:-1] if is_over(read(patches[-1])) else patches


def makes_one_too_many(state, draw, read, is_over, most):
    return run(state, draw, read, is_over, most + 1)


def never_reads(state, draw, read, is_over, most):
    patches = []
    while len(patches) < most:
        patches.append(draw(state))
        if is_over(state):
            break
    return patches


WRONG = {
    "mean_over_targets": [
        takes_the_mean_of_means,
        divides_by_all_patches,
        multiplies_by_zero,
        divides_by_zero,
    ],
    "patch_before_each": [rolls, shifts_the_wrong_way, adds_one_place, shifts_frames],
    "run": [asks_before_it_draws, throws_the_last_patch_away, makes_one_too_many, never_reads],
}
