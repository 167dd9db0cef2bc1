"""Measures the shipped motion codec on people who are in no training: frames, mouths, code, one
person driving another.
With --speed, how fast it is.

    python benchmarks/motion_quality.py [--clips 40] [--model small] [--out
    data/results/motion_quality.json] python benchmarks/motion_quality.py --speed [--out
    data/results/motion_speed.json]

The same measures as at the end of `talker-t2av train motion-codec`, and what it costs to trust
them: PSNR differs by two decibels from clip to clip, so a mean over 12 clips is uncertain by half a
decibel. About six minutes of one core. Speed is measured apart, with `--speed`, on all of torch's
threads and on an idle machine.
"""

import argparse

from talker_t2av.codecs.motion.codec import MotionCodec
from talker_t2av.codecs.motion.reader import spoken_clips
from talker_t2av.codecs.motion.training import codec_speed, evaluate_motion
from talker_t2av.common.hub import weight_checksums
from talker_t2av.common.media import data_dir, write_result
from talker_t2av.evaluation.statistics import rate_interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument(
        "--model", default="small", help="a preset, a folder, or owner/name on the Hub"
    )
    parser.add_argument("--speed", action="store_true", help="measure speed only")
    parser.add_argument(
        "--out",
        default=None,
        help="JSON to write (default data/results/motion_quality.json, or motion_speed.json)",
    )
    args = parser.parse_args()
    out = args.out or data_dir() / "results" / f"motion_{'speed' if args.speed else 'quality'}.json"
    parents = weight_checksums(args.model, ["motion_codec"])
    if args.speed:
        speed = codec_speed(
            MotionCodec.from_pretrained(args.model), spoken_clips(1, 128)[0], repeats=20
        )
        write_result(out, speed, "python benchmarks/motion_quality.py --speed", parents=parents)
        print(
            f"encode {speed['encode']:.0f}, render {speed['render']:.0f} frames/s on "
            f"{speed['threads']} threads"
        )
        return
    values = evaluate_motion(MotionCodec.from_pretrained(args.model), args.clips)
    del values["speed"]  # measured beside everything else, on a machine that may be busy
    values["interval"] = {
        name: rate_interval([clip[name] for clip in values["self"]["clips"]])._asdict()
        for name in ("psnr", "mouth_psnr", "ssim")
    }
    command = f"python benchmarks/motion_quality.py --clips {args.clips}"
    write_result(out, values, command, parents=parents)
    own = values["self"]
    print(
        f"unseen people {own['psnr']:.2f} dB, mouth {own['mouth_psnr']:.2f} dB, "
        f"SSIM {own['ssim']:.4f}"
    )


if __name__ == "__main__":
    main()
