"""Solutions of 2.4."""

import torch
import torch.nn.functional as F


def draw_latent(raw, noise):
    mean, scale = raw.chunk(2, dim=-1)
    std = F.softplus(scale) + 1e-4
    return mean + std * noise


def takes_the_scale_as_it_is(raw, noise):
    mean, scale = raw.chunk(2, dim=-1)
    return mean + scale * noise


def takes_scales_first(raw, noise):
    scale, mean = raw.chunk(2, dim=-1)
    return mean + (F.softplus(scale) + 1e-4) * noise


def draws_without_gradients(raw, noise):
    mean, scale = raw.detach().chunk(2, dim=-1)
    return mean + (F.softplus(scale) + 1e-4) * noise


def total_deviation(mean, std):
    between_frames = mean.var(0, correction=0)
    within_a_frame = std.square().mean(0)
    return (between_frames + within_a_frame).sqrt()


def forgets_the_noise(mean, std):
    return mean.std(0, correction=0)


def adds_deviations(mean, std):
    return mean.std(0, correction=0) + std.mean(0)


def squares_the_mean_deviation(mean, std):
    return (mean.var(0, correction=0) + std.mean(0).square()).sqrt()


def takes_the_size_of_the_mean(mean, std):
    return (mean.square().mean(0) + std.square().mean(0)).sqrt()


def takes_everything_together(mean, std):
    return (mean.var(correction=0) + std.square().mean()).sqrt() * torch.ones(1)


def frames_handed_out(pushes, lookahead):
    given, handed_out, counts = 0, 0, []
    for frames in pushes:
        given += frames
        ready = max(given - lookahead, 0)
        counts.append(ready - handed_out)
        handed_out = ready
    return [*counts, given - handed_out]


def waits_at_every_push(pushes, lookahead):
    counts = [max(frames - lookahead, 0) for frames in pushes]
    return [*counts, sum(pushes) - sum(counts)]


def takes_back_what_it_never_gave(pushes, lookahead):
    counts = [pushes[0] - lookahead, *pushes[1:]]
    return [*counts, lookahead]


def forgets_to_close(pushes, lookahead):
    return frames_handed_out(pushes, lookahead)[:-1]


WRONG = {
    "draw_latent": [takes_the_scale_as_it_is, takes_scales_first, draws_without_gradients],
    "total_deviation": [
        forgets_the_noise,
        adds_deviations,
        squares_the_mean_deviation,
        takes_the_size_of_the_mean,
        takes_everything_together,
    ],
    "frames_handed_out": [waits_at_every_push, takes_back_what_it_never_gave, forgets_to_close],
}
