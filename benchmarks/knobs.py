"""What each knob of generation does to speech: one is turned, the others keep their defaults.

Validation sentences, sound only, one seed.

    python benchmarks/knobs.py [--clips 40] [--films 40] [--knobs NAME ...] [--out
    data/results/knobs.json]

An independent recogniser counts phoneme errors; lengths are compared with the world's own clips of
the same words. The temperature of motion is judged by films: how often the eyes blink, how far and
fast the head moves, beside the world's own films, read from the pixels by the same network.
About 10 minutes on two idle cores.
"""

import argparse
import time
from dataclasses import asdict

import numpy as np
import torch

from talker_t2av import TalkerPipeline
from talker_t2av.codecs.audio.judge import Judge
from talker_t2av.common.hub import weight_checksums
from talker_t2av.common.media import data_dir, write_result
from talker_t2av.evaluation.report import (
    TALKER_PARTS,
    MetricModels,
    Produced,
    measure_film,
    produce,
    world_item,
)
from talker_t2av.evaluation.speech import script_of, speech_errors
from talker_t2av.evaluation.statistics import rate_interval
from talker_t2av.evaluation.sync import heard_phonemes, listen
from talker_t2av.inference.generate import Settings
from talker_t2av.world.corpus import make_clip

KNOBS = {
    "num_steps": (4, 6, 10, 20),
    "guidance_scale": (1.0, 1.5, 2.0, 3.0),
    "temperature": (0.1, 0.2, 0.4, 0.7),
    "stop_threshold": (0.2, 0.5, 0.8),
}

MOTION_TEMPERATURES = (0.4, 0.7, 1.0, 1.3)


@torch.no_grad()
def measure_speech(pipeline: TalkerPipeline, judge: Judge, clips: list, knobs: dict) -> dict:
    """Speak all texts in one batch; count what the judge hears."""
    start = time.perf_counter()
    said = pipeline(
        [clip.text for clip in clips],
        [clip.voice for clip in clips],
        None,
        seed=list(range(len(clips))),
        **knobs,
    )
    taken = time.perf_counter() - start
    found, lengths = [], []
    for clip, spoken in zip(clips, said):
        heard = listen(judge, torch.from_numpy(spoken.audio))
        script = script_of(clip.phonemes, clip.words)
        found.append(speech_errors(heard_phonemes(heard, judge.symbols), script))
        lengths.append(len(spoken.audio) / len(clip.wav))
    errors = rate_interval([f.errors for f in found], [f.phonemes for f in found])
    return {
        "phoneme_error": errors._asdict(),
        "length": float(np.mean(lengths)),
        "length_within_15": float(np.mean(np.abs(np.array(lengths) - 1) <= 0.15)),
        "times_real_time": sum(spoken.seconds for spoken in said) / taken,
    }


@torch.no_grad()
def measure_faces(films: list[Produced], items: list, models: MetricModels) -> dict:
    """How lively some films are, and how well the lips follow the sound."""
    found = []
    for film, item in zip(films, items):
        found.append(measure_film(film, listen(models.judge, film.wav), item, models).numbers)
    minutes = sum(numbers["minutes"] for numbers in found)
    means = {
        name: float(np.mean([numbers[name] for numbers in found if name in numbers]))
        for name in ("sway", "head_speed", "sync_confidence")
    }
    blinks = sum(numbers["blinks"] for numbers in found) / minutes
    return {"blinks_a_minute": blinks, "minutes": minutes} | means


def turn_motion(pipeline: TalkerPipeline, films: int) -> list[dict]:
    """The world's own films, then the talker's at each temperature of motion."""
    models = MetricModels.from_pretrained("small")
    items = [world_item(seed, "validation") for seed in range(films)]
    truth = [produce("truth", item) for item in items]
    faces = [{"motion_temperature": None} | measure_faces(truth, items, models)]
    for value in MOTION_TEMPERATURES:
        said = [
            pipeline(item.text, item.voice, item.face, seed=item.seed, motion_temperature=value)
            for item in items
        ]
        made = [Produced(torch.from_numpy(clip.audio), clip.frames) for clip in said]
        faces.append({"motion_temperature": value} | measure_faces(made, items, models))
        print("motion_temperature", faces[-1], flush=True)
    return faces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument(
        "--films", type=int, default=40, help="for the temperature of motion; 0: no films"
    )
    parser.add_argument(
        "--knobs",
        nargs="+",
        choices=KNOBS,
        default=list(KNOBS),
        metavar="NAME",
        help="turn only these (default: all)",
    )
    parser.add_argument("--out", default=data_dir() / "results" / "knobs.json")
    args = parser.parse_args()
    pipeline, judge = TalkerPipeline.from_pretrained("small"), Judge.from_pretrained("small")
    clips = [make_clip(seed, "validation", video=False) for seed in range(args.clips)]
    defaults, rows, known = asdict(Settings()), [], {}
    for knob in args.knobs:
        for value in KNOBS[knob]:
            knobs = {} if defaults[knob] == value else {knob: value}
            key = tuple(knobs.items())
            if key not in known:  # the defaults are measured once
                known[key] = measure_speech(pipeline, judge, clips, knobs)
            rows.append({"knob": knob, "value": value} | known[key])
            found = known[key]
            print(
                f"{knob:16s}{value:5g}  phoneme error {found['phoneme_error']['value']:.1%}  "
                f"length {found['length']:.2f}  within 15% {found['length_within_15']:.0%}  "
                f"{found['times_real_time']:.1f} x real time",
                flush=True,
            )
    faces = turn_motion(pipeline, args.films) if args.films else []
    knobs = {knob: defaults[knob] for knob in (*KNOBS, "motion_temperature")}
    values = {
        "clips": args.clips,
        "films": args.films,
        "split": "validation",
        "defaults": knobs,
        "rows": rows,
        "faces": faces,
    }
    only = f" --knobs {' '.join(args.knobs)}" if args.knobs != list(KNOBS) else ""
    write_result(
        args.out,
        values,
        f"python benchmarks/knobs.py --clips {args.clips} --films {args.films}{only}",
        parents=weight_checksums("small", (*TALKER_PARTS, "judge")),
    )


if __name__ == "__main__":
    main()
