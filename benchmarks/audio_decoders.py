"""Which decoder, and do discriminators help?

The audio codec trained several ways for equal processor time, one seed.

    python benchmarks/audio_decoders.py [--seconds 90] [--out data/results/audio_decoders.json]

Three decoders from fresh weights (all with the encoder of `small`), then two ways to go on from the
shipped codec: without discriminators and with them. Every variant gets `--seconds` of processor
time on one thread, so a slower one gets fewer steps. About 15 minutes with the default.
"""

import argparse
import copy
import time
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from talker_t2av.codecs.audio.codec import (
    DESIGNS,
    DacCodec,
    DacCodecConfig,
    SourceFilterCodecConfig,
    SpectralCodec,
    SpectralCodecConfig,
)
from talker_t2av.codecs.audio.layers import PitchedEncoder
from talker_t2av.codecs.audio.training import (
    AUDIO_RECIPES,
    AudioRecipe,
    Material,
    audio_loss,
    build_trainer,
    decode_speed,
    listen_and_measure,
    make_material,
    train_on,
)
from talker_t2av.common.media import data_dir, write_result
from talker_t2av.common.trainer import fit


@dataclass(frozen=True)
class PitchedSpectralConfig(SpectralCodecConfig):
    """The first design, with the encoder of `small`."""

    design: ClassVar[str] = "pitched_spectral"


@dataclass(frozen=True)
class PitchedDacConfig(DacCodecConfig):
    """DAC's decoder, with the encoder of `small`."""

    design: ClassVar[str] = "pitched_dac"


class PitchedSpectralCodec(SpectralCodec):
    def make_encoder(self) -> PitchedEncoder:
        return PitchedEncoder(160, 3, self.config.semantic.hidden_size)


class PitchedDacCodec(DacCodec):
    def make_encoder(self) -> PitchedEncoder:
        return PitchedEncoder(160, 3, self.config.semantic.hidden_size)


DESIGNS["pitched_spectral"] = (PitchedSpectralConfig, PitchedSpectralCodec)
DESIGNS["pitched_dac"] = (PitchedDacConfig, PitchedDacCodec)

SMALL = AUDIO_RECIPES["small"]
# to go on from trained weights
SLOW = replace(SMALL.train, learning_rate=3e-4, warmup_steps=20, ema_decay=0.99)
DISCRIMINATORS = ((16, 32, 64, 128), 16)
VARIANTS = {
    "source-filter": SMALL,
    "inverse STFT": replace(
        SMALL,
        config=PitchedSpectralConfig(semantic=SMALL.config.semantic),
        weights=replace(SMALL.weights, pitch=0.0),
    ),
    "DAC": replace(
        SMALL,
        config=PitchedDacConfig(decoder_channels=512, semantic=SMALL.config.semantic),
        weights=replace(SMALL.weights, pitch=0.0),
    ),
    "shipped, longer": replace(SMALL, start="small", train=SLOW),
    "shipped, with discriminators": replace(
        SMALL,
        start="small",
        train=SLOW,
        discriminators=DISCRIMINATORS,
        weights=replace(SMALL.weights, adversarial=1.0, feature=2.0),
    ),
}


def processor_time(recipe: AudioRecipe, material: Material, steps: int) -> float:
    """Seconds that so many training steps take, on a trainer that is thrown away."""
    trainer = build_trainer(recipe)
    train = replace(recipe.train, steps=steps, warmup_steps=1, ema_decay=0.9)
    start = time.process_time()
    fit(trainer, audio_loss, material.crops.batches(recipe.batch_size), train, progress=False)
    return time.process_time() - start


def measure(name: str, recipe: AudioRecipe, material: Material, seconds: float) -> dict:
    """Train one variant for so long and measure it on the validation clips."""
    crops = copy.copy(material.crops)
    if not isinstance(recipe.config, SourceFilterCodecConfig):
        crops.pitch = None  # the decoder has no use for it
    material = material._replace(crops=crops)
    step = (processor_time(recipe, material, 30) - processor_time(recipe, material, 5)) / 25
    steps = max(20, round(seconds / step))
    train = replace(
        recipe.train,
        steps=steps,
        warmup_steps=min(recipe.train.warmup_steps, steps // 10),
        validate_every=steps,
        ema_decay=min(recipe.train.ema_decay, 1 - 5 / steps),
    )
    recipe = replace(recipe, train=train)
    trainer, start = build_trainer(recipe), time.process_time()
    train_on(trainer, material, recipe)  # and one validation, the same for all
    spent = time.process_time() - start
    codec = trainer.learner.codec.eval()
    found = listen_and_measure(material.checked, None)(trainer, steps)
    size = {"decoder_parameters": sum(p.numel() for p in codec.decoder.parameters())}
    return (
        {"name": name, "steps": steps, "processor_seconds": round(spent)}
        | size
        | found
        | {"decode_real_time": decode_speed(codec)["decode"]}
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=90, help="processor time of each variant (default 90)"
    )
    parser.add_argument("--clips", type=int, default=1000, help="training clips (default 1000)")
    parser.add_argument("--out", default=data_dir() / "results" / "audio_decoders.json")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    recipe = replace(SMALL, clips=args.clips)
    material, rows = make_material(recipe, build_trainer(recipe).learner.codec, workers=1), []
    for name, variant in VARIANTS.items():
        rows.append(
            measure(name, replace(variant, clips=args.clips, fitted=100), material, args.seconds)
        )
        print(rows[-1], flush=True)
        write_result(
            args.out,
            {
                "seconds_each": args.seconds,
                "clips": args.clips,
                "checked": SMALL.checked,
                "rows": rows,
            },
            f"python benchmarks/audio_decoders.py --seconds {args.seconds:g} --clips {args.clips}",
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
