"""How fast the portrait is drawn: frames a second at 128 x 128, and the one-time cost
of painting a person.
"""

import torch

from talker_t2av.common.measuring import fastest
from talker_t2av.world.face.articulation import articulate, idle_motion
from talker_t2av.world.face.drawing import sample_identity
from talker_t2av.world.face.portrait import lip_gap, paint
from talker_t2av.world.face.rendering import ZOOM, mouth_opening, render

N_FRAMES, SIZE = 250, 128


def run() -> list[dict]:
    "Ten seconds of one speaking person, with one thread and with two."
    who, pose = sample_identity(5), idle_motion(N_FRAMES, 0)
    sounds = [(symbol, 0.1 * i, 0.1 * (i + 1)) for i, symbol in enumerate("mɑtivuθo" * 13)]
    mouth = articulate(sounds, N_FRAMES)
    frames = render(who, mouth, pose, SIZE)
    rows, threads = [], torch.get_num_threads()
    try:
        for n, label in ((1, "1 thread"), (2, "2 threads")):
            torch.set_num_threads(n)
            rate = N_FRAMES / fastest(lambda: render(who, mouth, pose, SIZE), repeats=5)
            rows.append(
                {
                    "name": f"face/render {label}",
                    "value": round(rate),
                    "unit": "frames/s",
                    "note": f"{SIZE} x {SIZE}, {N_FRAMES} frames, best of 5, painting not counted",
                }
            )
        torch.set_num_threads(1)
        rows.append(
            {
                "name": "face/paint",
                "value": round(1000 * fastest(lambda: paint(who, SIZE * ZOOM))),
                "unit": "ms",
                "note": "textures of a new person, once per person and size; 1 thread",
            }
        )
        rows.append(
            {
                "name": "face/articulate",
                "value": round(N_FRAMES / fastest(lambda: articulate(sounds, N_FRAMES))),
                "unit": "frames/s",
                "note": f"{len(sounds)} phonemes, 1 thread",
            }
        )
    finally:
        torch.set_num_threads(threads)
    seen = mouth_opening(frames, who, pose)
    error = (seen - lip_gap(mouth)).abs().mean().item()
    rows.append(
        {
            "name": "face/opening error",
            "value": round(error * SIZE * ZOOM / 2, 2),
            "unit": "pixels",
            "note": "mean distance between measured and true lip gap in these frames",
        }
    )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
