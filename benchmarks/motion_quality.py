"""Measures the shipped motion codec on people whom it has not met: pictures, mouths, code, one person driving another, speed.

    python benchmarks/motion_quality.py [--clips 40] [--model small] [--out data/results/motion_quality.json]

The same measures as at the end of `talker-t2av train motion-codec`, and what it costs to trust them: PSNR differs by two decibels from clip to
clip, so a mean over 12 clips is uncertain by a third of a decibel. About six minutes of one core; run it on an idle machine, because it measures
speed too, on all of torch's threads.
"""
import argparse

from talker_t2av.codecs.motion import MotionCodec
from talker_t2av.codecs.motion_evaluation import evaluate_motion
from talker_t2av.evaluation.statistics import rate_interval
from talker_t2av.media import data_dir, write_result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--model", default="small", help="a preset, a folder, or owner/name on the Hub")
    parser.add_argument("--out", default=data_dir() / "results" / "motion_quality.json")
    args = parser.parse_args()
    values = evaluate_motion(MotionCodec.from_pretrained(args.model), args.clips)
    values["interval"] = {name: rate_interval([clip[name] for clip in values["self"]["clips"]])._asdict() for name in ("psnr", "mouth_psnr", "ssim")}
    write_result(args.out, values, f"python benchmarks/motion_quality.py --clips {args.clips}")
    own, speed = values["self"], values["speed"]
    print(f"strangers {own['psnr']:.2f} dB, mouth {own['mouth_psnr']:.2f} dB, SSIM {own['ssim']:.4f}; encode {speed['encode']:.0f}, render {speed['render']:.0f} frames/s on {speed['threads']} threads")


if __name__ == "__main__":
    main()
