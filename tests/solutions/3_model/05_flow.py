"""Solutions of 3.5."""

import math

import torch


def both_ends(noisy, velocity, timestep):
    t = timestep.reshape(-1, *[1] * (noisy.ndim - 1))  # (B, 1, ..., 1)
    data = noisy - t * velocity
    noise = noisy + (1 - t) * velocity
    return data, noise


def takes_the_other_clock(noisy, velocity, timestep):
    return both_ends(noisy, velocity, 1 - timestep)


def mixes_up_the_ends(noisy, velocity, timestep):
    data, noise = both_ends(noisy, velocity, timestep)
    return noise, data


def walks_with_the_velocity_to_the_data(noisy, velocity, timestep):
    return both_ends(noisy, -velocity, timestep)


def puts_times_on_the_last_axis(noisy, velocity, timestep):
    return noisy - timestep[: noisy.shape[-1]] * velocity, noisy + (1 - timestep)[
        : noisy.shape[-1]
    ] * velocity


def zero_star(conditional, unconditional, guidance_scale):
    along = (conditional * unconditional).sum((1, 2), keepdim=True)  # (B, 1, 1)
    length = unconditional.square().sum((1, 2), keepdim=True)
    star = along / (length + 1e-8) * unconditional
    return star + guidance_scale * (conditional - star)


def forgets_the_projection(conditional, unconditional, guidance_scale):
    return unconditional + guidance_scale * (conditional - unconditional)


def projects_the_whole_batch(conditional, unconditional, guidance_scale):
    c_star = (conditional * unconditional).sum() / (unconditional.square().sum() + 1e-8)
    star = c_star * unconditional
    return star + guidance_scale * (conditional - star)


def projects_each_frame(conditional, unconditional, guidance_scale):
    along = (conditional * unconditional).sum(-1, keepdim=True)
    star = along / (unconditional.square().sum(-1, keepdim=True) + 1e-8) * unconditional
    return star + guidance_scale * (conditional - star)


def divides_by_the_conditional_length(conditional, unconditional, guidance_scale):
    along = (conditional * unconditional).sum((1, 2), keepdim=True)
    star = along / conditional.square().sum((1, 2), keepdim=True) * unconditional
    return star + guidance_scale * (conditional - star)


def divides_by_zero(conditional, unconditional, guidance_scale):
    along = (conditional * unconditional).sum((1, 2), keepdim=True)
    star = along / unconditional.square().sum((1, 2), keepdim=True) * unconditional
    return star + guidance_scale * (conditional - star)


def starts_at_the_plain_velocity(conditional, unconditional, guidance_scale):
    star = zero_star(conditional, unconditional, 0.0)
    return unconditional + guidance_scale * (conditional - star)


def sampler_times(num_steps, sway):
    times = []
    for step in range(num_steps + 1):
        u = 1 - step / num_steps
        times.append(u + sway * (math.cos(math.pi / 2 * u) - 1 + u))
    skipped = max(1, int(0.04 * (num_steps + 1)))
    return times[skipped:]


def skips_nothing(num_steps, sway):
    even = torch.linspace(1, 0, num_steps + 1).tolist()
    return [u + sway * (math.cos(math.pi / 2 * u) - 1 + u) for u in even]


def skips_none_of_few(num_steps, sway):
    return skips_nothing(num_steps, sway)[int(0.04 * (num_steps + 1)) :]


def skips_the_last(num_steps, sway):
    return skips_nothing(num_steps, sway)[: -max(1, int(0.04 * (num_steps + 1)))]


def counts_steps_for_points(num_steps, sway):
    return skips_nothing(num_steps, sway)[max(1, int(0.04 * num_steps)) :]


def bends_the_other_way(num_steps, sway):
    return sampler_times(num_steps, -sway)


WRONG = {
    "both_ends": [
        takes_the_other_clock,
        mixes_up_the_ends,
        walks_with_the_velocity_to_the_data,
        puts_times_on_the_last_axis,
    ],
    "zero_star": [
        forgets_the_projection,
        projects_the_whole_batch,
        projects_each_frame,
        divides_by_the_conditional_length,
        divides_by_zero,
        starts_at_the_plain_velocity,
    ],
    "sampler_times": [
        skips_nothing,
        skips_none_of_few,
        skips_the_last,
        counts_steps_for_points,
        bends_the_other_way,
    ],
}
