"""Generation: where the time of a patch goes, and how fast the whole way from text to mp4 is.

The shipped pipeline where its weights are in data/small, else the same sizes with random weights
(the note says which). Part times are processor time of one thread, parts one after the other; rates
are wall time with the threads that torch is set to, generation in one thread and drawing and ffmpeg
beside it.
"""

import resource
import tempfile
import time
from pathlib import Path

import torch

from talker_t2av.common.media import data_dir
from talker_t2av.inference.generate import generate
from talker_t2av.inference.pipeline import TalkerPipeline, profile_parts

TEXT = "The quick brown fox jumps over the lazy dog, and nobody in the garden is surprised."
PATCHES = 31  # five seconds


def shipped() -> bool:
    """Whether trained weights of every part are there."""
    return all(
        (data_dir() / "small" / kind / "config.json").is_file()
        for kind in ("talker", "audio_codec", "motion_codec")
    )


def first_patches(pipeline: TalkerPipeline, plan, heads, count: int) -> float:
    """Seconds for the latents of `count` patches."""
    begin = time.perf_counter()
    steps = generate(pipeline.talker, pipeline.tokenizer, [plan.request], plan.settings, heads)
    for _ in zip(range(count), steps):
        pass
    return time.perf_counter() - begin


def write_time(pipeline: TalkerPipeline, path: Path) -> dict:
    """The report of one sentence written to a file; the stop predictor is ignored until
    five seconds are full.
    """
    plan, steps = pipeline.plan(TEXT, stop_threshold=1.0), pipeline.steps

    def five_seconds(plan):
        for _, step in zip(range(PATCHES), steps(plan)):
            yield step

    pipeline.steps = five_seconds
    try:
        return pipeline.write(path, plan)
    finally:
        del pipeline.steps


def run() -> list[dict]:
    ready = shipped()
    pipeline = (
        TalkerPipeline.from_pretrained("small") if ready else TalkerPipeline.untrained("small")
    )
    what = "shipped small" if ready else "small with random weights"
    plan = pipeline.plan(TEXT, stop_threshold=1.0)
    with tempfile.TemporaryDirectory() as folder:
        profile_parts(pipeline, patches=2)
        parts = profile_parts(pipeline, TEXT, PATCHES, output=Path(folder) / "parts.mp4")
        plain = min(first_patches(pipeline, plan, None, 10) for _ in range(2)) / 10
        fused = min(first_patches(pipeline, plan, pipeline.fast, 10) for _ in range(3)) / 10
        written = min(
            (write_time(pipeline, Path(folder) / "clip.mp4") for _ in range(2)),
            key=lambda report: report["generated_in_seconds"],
        )
        first = min(time_to_first(pipeline) for _ in range(3))
    rows = [
        {
            "name": f"generation: {part}",
            "value": ms,
            "unit": "ms a patch",
            "note": f"{what}; processor time, 1 thread, {PATCHES} patches",
        }
        for part, ms in sorted(parts.items(), key=lambda item: -item[1])
    ]
    threads = f"{torch.get_num_threads()} threads"
    return rows + [
        {
            "name": "generation: latents, plain heads",
            "value": 0.16 / plain,
            "unit": "x real time",
            "note": f"{what}; {threads}, 10 patches, best of 2",
        },
        {
            "name": "generation: latents, fused heads",
            "value": 0.16 / fused,
            "unit": "x real time",
            "note": f"{what}; {threads}, 10 patches, best of 3; target 5",
        },
        {
            "name": "generation: text to mp4",
            "value": written["times_real_time"],
            "unit": "x real time",
            "note": f"{what}; 5 s, {threads}, best of 2; target 3",
        },
        {
            "name": "generation: first chunk",
            "value": first,
            "unit": "s",
            "note": (
                f"{what}; live, one patch a chunk, best of 3; target a tenth of the time for 5 s, "
                f"{written['generated_in_seconds'] / 10:.2f} s"
            ),
        },
        {
            "name": "generation: peak memory",
            "value": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
            "unit": "GB",
            "note": "of this process since its start; target 1.5",
        },
    ]


def time_to_first(pipeline: TalkerPipeline) -> float:
    """Seconds from a prepared plan to the first chunk."""
    plan = pipeline.plan(TEXT, stop_threshold=1.0)
    begin = time.perf_counter()
    chunks = pipeline.play(plan)
    next(chunks)
    taken = time.perf_counter() - begin
    chunks.close()
    return taken


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']:<44} {row['value']:>10.4g} {row['unit']:<12} {row['note']}")
