"""Speed of the audio codec: encoding, decoding, streaming, and what the two kinds of encoders and
decoders cost.

Random weights.
"""

import time
from functools import partial

import torch

from talker_t2av.codecs.audio.codec import AUDIO_PRESETS, AudioCodec
from talker_t2av.codecs.audio.layers import (
    DacDecoder,
    DacEncoder,
    IstftDecoder,
    SpectralEncoder,
    decoder_cost,
)
from talker_t2av.codecs.audio.losses import CodecLearner
from talker_t2av.common.measuring import fastest
from talker_t2av.common.media import PATCH_SIZE, SAMPLE_RATE


def patch_times(codec: AudioCodec, latent: torch.Tensor) -> list[float]:
    """Seconds that each patch of a stream takes, in order."""
    stream, times = codec.stream(), []
    for patch in latent.split(PATCH_SIZE, dim=1):
        start = time.perf_counter()
        stream.push(patch)
        times.append(time.perf_counter() - start)
    return sorted(times)


def training_step(encoder: torch.nn.Module, wav: torch.Tensor) -> None:
    """Forward and backward through an encoder."""
    encoder(wav[:, None]).square().mean().backward()


def run() -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    seconds, threads = 4, f"{torch.get_num_threads()} threads, fastest of 3"
    wav = 0.1 * torch.randn(1, seconds * SAMPLE_RATE, generator=generator)
    codec = AudioCodec.from_config(AUDIO_PRESETS["small"]).eval()
    latent = codec.encode(wav)
    rows = [
        {
            "name": "small: encode",
            "value": seconds / fastest(lambda: codec.encode(wav)),
            "unit": "x real time",
            "note": f"4 s clip, {threads}",
        },
        {
            "name": "small: decode",
            "value": seconds / fastest(lambda: codec.decode(latent)),
            "unit": "x real time",
            "note": f"4 s clip, {threads}",
        },
    ]
    times = patch_times(codec, latent)[5:]  # the first few are short of context
    rows.append(
        {
            "name": "small: streaming decode, one patch",
            "value": 1e3 * times[len(times) // 2],
            "unit": "ms",
            "note": "median; a patch is 160 ms of sound",
        }
    )
    for name, decoder in (
        ("inverse Fourier 4 x 320", IstftDecoder(256, 320, 4)),
        ("DAC from 512", DacDecoder(256, 512, (12, 10, 4, 2))),
    ):
        cost = decoder_cost(decoder, 256, seconds=2.0)
        note = (
            f"{cost['parameters'] / 1e6:.2f} M parameters, {cost['gflop_per_second']:.2f} GFLOP "
            f"per s of sound, {threads}"
        )
        rows.append(
            {
                "name": f"decoder: {name}",
                "value": cost["real_time_factor"],
                "unit": "x real time",
                "note": note,
            }
        )
    for name, encoder in (
        ("spectral 3 x 160", SpectralEncoder(160, 3, 256)),
        ("DAC from 16", DacEncoder(16, (2, 4, 10, 12), 256)),
    ):
        spent = fastest(partial(training_step, encoder, wav[:, :SAMPLE_RATE]), 2)
        rows.append(
            {
                "name": f"encoder, forward and backward: {name}",
                "value": 1e3 * spent,
                "unit": "ms per s",
                "note": "of sound, fastest of 2",
            }
        )
    learner, crops = CodecLearner(AudioCodec.from_config(AUDIO_PRESETS["small"])), wav.view(10, -1)
    step = fastest(
        lambda: learner(crops, torch.Generator().manual_seed(0))[0]["loss"].backward(), 2
    )
    rows.append(
        {
            "name": "small: training step without discriminators",
            "value": step,
            "unit": "s",
            "note": "10 crops of 0.4 s, float32, no optimizer, fastest of 2",
        }
    )
    return rows
