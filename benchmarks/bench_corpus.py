"""How fast the world makes clips and batches: clips a second and times real time, on one core,
with and without film.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from talker_t2av.common.measuring import fastest
from talker_t2av.common.media import FRAME_RATE
from talker_t2av.world.build import BuildSettings, build_corpus, write_clip
from talker_t2av.world.corpus import make_clip, one_thread
from talker_t2av.world.dataset import ClipDataset, LengthBucketSampler, collate, read_manifest
from talker_t2av.world.sentences import sample_sentence


def clips_rows(n: int, video: bool) -> list[dict]:
    "Speed of `n` clips with make_clip."
    clips = [make_clip(i, "train", video=video) for i in range(n)]
    seconds = sum(clip.n_frames for clip in clips) / FRAME_RATE  # of speech
    best = fastest(lambda: [make_clip(i, "train", video=video) for i in range(n)])
    kind = "sound, articulation"
    if video:
        kind += " and 128-pixel film"
    row = {"name": f"make_clip, {kind}", "note": f"one core, {n} clips, best of 3"}
    return [
        row | {"value": n / best, "unit": "clips/s"},
        row | {"value": seconds / best, "unit": "x real time"},
    ]


def padding_share(lengths: np.ndarray, batches: list) -> float:
    "Share of frames in the batches that are padding."
    return 1 - lengths.sum() / sum(len(batch) * lengths[batch].max() for batch in batches)


def run() -> list[dict]:
    "All rows of this benchmark."
    make_clip(0, "train")
    with one_thread():
        rows = clips_rows(60, video=False) + clips_rows(4, video=True)
        with tempfile.TemporaryDirectory() as folder:
            best = fastest(lambda: [write_clip(Path(folder), i, BuildSettings()) for i in range(4)])
            rows.append(
                {
                    "name": "write_clip with film (FLAC, mp4, truth)",
                    "value": 4 / best,
                    "unit": "clips/s",
                    "note": "one core, 4 clips, best of 3",
                }
            )
            data = ClipDataset(
                read_manifest(
                    build_corpus(Path(folder) / "sound", 48, split="train", video=False, workers=1)
                )
            )
            sampler = LengthBucketSampler(data.lengths, 16)
            best = fastest(lambda: [collate([data[i] for i in batch]) for batch in sampler])
            rows.append(
                {
                    "name": "batches of sound and motion from disk",
                    "value": sum(data.lengths) / FRAME_RATE / best,
                    "unit": "x real time",
                    "note": "one process, 48 clips in batches of 16, best of 3",
                }
            )
    rng = np.random.default_rng(0)
    best = fastest(lambda: [sample_sentence(rng, "train") for _ in range(500)])
    rows.append(
        {
            "name": "sample_sentence, train",
            "value": 500 / best,
            "unit": "sentences/s",
            "note": "best of 3",
        }
    )
    lengths = np.array([make_clip(i, "train", video=False).n_frames for i in range(320)])
    loose = np.split(rng.permutation(len(lengths)), len(lengths) // 16)
    for name, batches in (
        ("random order", loose),
        ("buckets", [np.array(b) for b in LengthBucketSampler(lengths, 16)]),
    ):
        rows.append(
            {
                "name": f"padding in batches of 16, {name}",
                "value": 100 * float(padding_share(lengths, batches)),
                "unit": "%",
                "note": "320 clips",
            }
        )
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    for row in run():
        print(row)
