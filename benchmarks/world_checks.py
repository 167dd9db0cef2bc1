"""Does the synthetic world tell the truth?

Lips at every p, b and m, and jaw against loudness, over many clips.

    python benchmarks/world_checks.py [--clips 200] [--out data/results/world_checks.json]
    python benchmarks/world_checks.py --neural --out data/results/world_checks_neural.json

With --neural the same sentences and faces are spoken by the neural voices, in turn (notebook W.13).

Writes what it measured and exits with 1 if a limit is broken. 200 clips take about two minutes on
one core: sound and articulation are made whole, pixels are rendered only where they are looked at.
"""

import argparse
import sys

import numpy as np
import torch
from tqdm import tqdm

from talker_t2av.common.measuring import energy_envelope, lag_correlation, peak_lag
from talker_t2av.common.media import FRAME_RATE, data_dir, write_result
from talker_t2av.world.corpus import make_clip
from talker_t2av.world.face.drawing import sample_identity
from talker_t2av.world.face.portrait import ARTICULATION, lip_gap
from talker_t2av.world.face.rendering import ZOOM, mouth_opening, render

SIZE = 128
PIXEL = 2 / ZOOM / SIZE  # height of one pixel in units of the portrait
JAW = ARTICULATION.index("jaw_open")


def closures(clip) -> np.ndarray:  # frame numbers
    "The frame that holds the middle of each p, b and m of a clip."
    middles = [(p.start + p.end) / 2 for p in clip.phonemes if p.symbol in ("p", "b", "m")]
    return np.minimum(np.floor(np.array(middles) * FRAME_RATE).astype(int), clip.n_frames - 1)


def seen_opening(clip, frames) -> np.ndarray:  # (len(frames),) pixels
    """Mouth opening measured in rendered pixels, over what the same measure says of the same
    face in the same pose with its lips shut.
    """
    who, pose = sample_identity(clip.face), torch.from_numpy(clip.pose[frames])
    articulation = torch.from_numpy(clip.articulation[frames])
    shut = torch.zeros_like(articulation)
    assert float(lip_gap(shut).max()) == 0, "zero articulation should mean shut lips"
    opening = [
        mouth_opening(render(who, track, pose, SIZE), who, pose) for track in (articulation, shut)
    ]
    return ((opening[0] - opening[1]) / PIXEL).numpy()


def check_world(n_clips: int = 200, split: str = "train", neural: bool = False) -> dict:
    "Measure `n_clips` clips; see the keys of what is returned."
    gaps, shut, wide, curves = [], [], [], []
    for seed in tqdm(range(n_clips), unit="clip"):
        clip = make_clip(seed, split, video=False, neural=float(neural))
        frames, jaw = closures(clip), clip.articulation[:, JAW]
        curves.append(lag_correlation(jaw, energy_envelope(clip.wav)))
        if len(frames):
            gaps += lip_gap(torch.from_numpy(clip.articulation[frames])).tolist()
            shut += seen_opening(clip, frames).tolist()
        wide += seen_opening(clip, jaw.argsort()[-1:]).tolist()
    mean = np.mean(curves, axis=0)
    return {
        "clips": n_clips,
        "split": split,
        "p_b_m": len(gaps),
        "articulation_gap_max": round(max(gaps), 5),
        "pixels_open_at_p_b_m_max": round(max(shut), 3),
        "pixels_open_at_widest_frame_median": round(float(np.median(wide)), 3),
        "jaw_energy_lag_frames": peak_lag(mean),
        "jaw_energy_correlation": round(float(mean.max()), 3),
        "correlation_by_lag": [round(float(c), 3) for c in mean],
    }


def broken_limits(found: dict) -> list[str]:
    "Which of the stated limits do not hold."
    broken = []
    if found["articulation_gap_max"] > 0:
        broken.append("lips do not touch in the articulation (limit 0)")
    if found["pixels_open_at_p_b_m_max"] >= 1:
        broken.append("a p, b or m shows an opening of a pixel or more")
    if found["pixels_open_at_widest_frame_median"] < 2:
        broken.append("the widest frame is not seen to be open by 2 pixels (median)")
    if abs(found["jaw_energy_lag_frames"]) > 1:
        broken.append("jaw and loudness agree best more than a frame apart")
    return broken


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--neural", action="store_true", help="spoken by the neural voices")
    parser.add_argument("--out", default=str(data_dir() / "results" / "world_checks.json"))
    args = parser.parse_args()
    found = check_world(args.clips, neural=args.neural)
    command = f"python benchmarks/world_checks.py --clips {args.clips}"
    if args.neural:
        command += " --neural"
    print(write_result(args.out, found, command), found, sep="\n")
    for name in broken_limits(found):
        print("LIMIT BROKEN:", name)
    sys.exit(bool(broken_limits(found)))
