"""How fast the shipped talker speaks, and how much memory it takes.

    python benchmarks/say.py [--repeats 5] [--out data/results/say.json]

A sentence of about five seconds: latents alone, the whole way to an mp4, the time until the first
chunk of a stream, each as often as asked, the models loaded; and the command line in a process of
its own, start and loading included, with its largest memory. About two minutes on two idle cores.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from talker_t2av import TalkerPipeline
from talker_t2av.common.hub import weight_checksums
from talker_t2av.common.media import FRAME_RATE, data_dir, write_result
from talker_t2av.evaluation.report import TALKER_PARTS

TEXT = "The visitors asked whether the old garden would be open before noon on Friday."


def repeated(measure, repeats: int) -> dict:
    """Smallest and middle value of some runs, after one that does not count."""
    measure()
    values = sorted(measure() for _ in range(repeats))
    return {"best": values[0], "median": values[len(values) // 2], "runs": repeats}


def latents_seconds(pipeline: TalkerPipeline) -> tuple[float, float]:
    """Seconds taken by all patches, and seconds of speech that they are."""
    plan, begin = pipeline.plan(TEXT), time.perf_counter()
    steps = list(pipeline.steps(plan))
    return time.perf_counter() - begin, len(steps) * steps[0].audio.shape[1] / FRAME_RATE


def first_chunk(pipeline: TalkerPipeline) -> float:
    """Seconds until the first sound and pictures of a stream."""
    plan = pipeline.plan(TEXT)
    stream = pipeline.play(plan)
    next(stream)
    stream.close()
    return plan.report["first_chunk_seconds"]


def command(folder: Path) -> dict:
    """`say` in a process of its own: its report, wall seconds from start to end, and the largest
    resident memory in MB, ffmpeg's included.
    """
    begin = time.perf_counter()
    line = [
        sys.executable,
        "-m",
        "talker_t2av.cli",
        "say",
        TEXT,
        "-o",
        str(folder / "say.mp4"),
        "--json",
    ]
    report = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {
        "wall_seconds": time.perf_counter() - begin,
        "generated_in_seconds": report["generated_in_seconds"],
        "peak_memory_mb": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", default=data_dir() / "results" / "say.json")
    args = parser.parse_args()
    pipeline = TalkerPipeline.from_pretrained("small")
    seconds = latents_seconds(pipeline)[1]
    values = {"text": TEXT, "seconds": seconds, "threads": torch.get_num_threads()}
    values["latents"] = repeated(lambda: latents_seconds(pipeline)[0], args.repeats)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "say.mp4"
        values["film"] = repeated(
            lambda: pipeline.write(path, pipeline.plan(TEXT))["generated_in_seconds"], args.repeats
        )
        values["first_chunk"] = repeated(lambda: first_chunk(pipeline), args.repeats)
        values["command"] = command(Path(folder))
    values["times_real_time"] = {
        name: seconds / values[name]["median"] for name in ("latents", "film")
    }
    values["first_chunk_share"] = values["first_chunk"]["median"] / values["film"]["median"]
    command_line = f"python benchmarks/say.py --repeats {args.repeats}"
    parents = weight_checksums("small", TALKER_PARTS)
    write_result(args.out, values, command_line, parents=parents)
    print(json.dumps(values, indent=1))


if __name__ == "__main__":
    main()
