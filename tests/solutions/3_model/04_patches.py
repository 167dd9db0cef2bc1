"""Solutions of 3.4."""

import torch
import torch.nn.functional as F


def cut(frames, patch_size, round_up):
    extra = len(frames) % patch_size
    if extra and round_up:
        frames = F.pad(frames, (0, 0, 0, patch_size - extra))
    elif extra:
        frames = frames[:-extra]
    return frames.reshape(-1, patch_size, frames.shape[1])


def always_fills_up(frames, patch_size, round_up):
    return cut(frames, patch_size, True)


def adds_a_patch_to_whole_ones(frames, patch_size, round_up):
    if round_up:
        frames = F.pad(frames, (0, 0, 0, patch_size - len(frames) % patch_size))
    else:
        frames = frames[: len(frames) // patch_size * patch_size]
    return frames.reshape(-1, patch_size, frames.shape[1])


def mixes_frames_of_all_patches(frames, patch_size, round_up):
    patches = cut(frames, patch_size, round_up)
    return patches.reshape(patch_size, -1, frames.shape[1]).transpose(0, 1)


def repeats_the_last_frame(frames, patch_size, round_up):
    missing = -len(frames) % patch_size
    if round_up and missing:
        frames = torch.cat([frames, frames[-1:].expand(missing, -1)])
    return cut(frames, patch_size, round_up)


def add_streams(sound, motion, has_face, padding):
    motion = torch.where(has_face[:, None, None], motion, padding)
    return sound + motion


def adds_zero_for_no_face(sound, motion, has_face, padding):
    return sound + motion * has_face[:, None, None]


def adds_the_padding_to_everybody(sound, motion, has_face, padding):
    return sound + motion * has_face[:, None, None] + padding


def multiplies_by_zero(sound, motion, has_face, padding):
    has_face = has_face[:, None, None].float()
    return sound + motion * has_face + padding * (1 - has_face)


def replaces_the_sound(sound, motion, has_face, padding):
    return torch.where(has_face[:, None, None], sound + motion, padding)


WRONG = {
    "cut": [
        always_fills_up,
        adds_a_patch_to_whole_ones,
        mixes_frames_of_all_patches,
        repeats_the_last_frame,
    ],
    "add_streams": [
        adds_zero_for_no_face,
        adds_the_padding_to_everybody,
        multiplies_by_zero,
        replaces_the_sound,
    ],
}
