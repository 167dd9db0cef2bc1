"""Trains the motion codec with one decision changed at a time: size of the code, dictionary, terms
of the loss.

Measures each on unseen people.

    python benchmarks/motion_studies.py --out DIR [--only NAME ...] [--results
    data/results/motion_studies.json]

What DIR holds is not done again, so an interrupted run goes on, and two runs with different
`--only` share the work. Each variant takes about five minutes of one core; the results are written
when DIR has all of them.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch

from talker_t2av.codecs.motion.codec import MotionCodec
from talker_t2av.common.media import atomic_path, data_dir, write_result
from talker_t2av.studies.motion_codes import (
    VARIANTS,
    Study,
    run_variant,
    study_material,
    variant_file,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", required=True, type=Path, help="folder for what is trained and measured"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=VARIANTS,
        default=list(VARIANTS),
        metavar="NAME",
        help="variants to train now (default: all)",
    )
    parser.add_argument(
        "--results",
        default=data_dir() / "results" / "motion_studies.json",
        help="written when all variants are there",
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    study, reader = (
        Study(),
        MotionCodec.from_pretrained("small").network.reader.eval().requires_grad_(False),
    )
    material = study_material(study, reader, args.out)
    place = lambda name: args.out / f"{variant_file(name)}.json"
    for name in args.only:
        if not place(name).is_file():
            measured = run_variant(study, name, material, reader, args.out)
            with atomic_path(place(name)) as temporary:
                temporary.write_text(json.dumps(measured))
            print(
                f"{name}: {measured['psnr']:.2f} dB, mouth {measured['mouth_psnr']:.2f} dB, jaw "
                f"moves {measured['moves']['jaw_open']:.2f}",
                flush=True,
            )
    if all(place(name).is_file() for name in VARIANTS):
        found = {
            name: asdict(variant) | json.loads(place(name).read_text())
            for name, variant in VARIANTS.items()
        }
        shared = {name: value for name, value in asdict(study).items() if name != "recipe"}
        write_result(
            args.results,
            {"study": shared, "variants": found},
            "python benchmarks/motion_studies.py --out DIR",
        )


if __name__ == "__main__":
    main()
