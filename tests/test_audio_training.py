"""Training of the audio codec by its command, resume, faults; the metrics;
the shipped weights.
"""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from talker_t2av import cli
from talker_t2av.codecs.audio import training as audio_training
from talker_t2av.codecs.audio.codec import AudioCodec
from talker_t2av.codecs.audio.layers import self_similarity
from talker_t2av.codecs.audio.semantic import speech_bank
from talker_t2av.codecs.audio.training import (
    AUDIO_RECIPES,
    SpeechCrops,
    audio_latent_statistics,
    build_trainer,
    compare,
    pass_through,
    pitch_errors,
    track_pitch,
    train_audio_codec,
)
from talker_t2av.common.media import SAMPLE_RATE, data_dir, load_torchaudio
from talker_t2av.world.voice.voices import VOICES

TINY = AUDIO_RECIPES["tiny"]
QUICK = replace(
    TINY,
    clips=6,
    checked=1,
    fitted=6,
    batch_size=2,
    train=replace(TINY.train, steps=4, save_every=2, validate_every=4, warmup_steps=2),
)


@pytest.fixture(scope="module")
def bank():
    return speech_bank(3, "test_voices", workers=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder that the command filled, from fewer clips than the recipe's."""
    folder = tmp_path_factory.mktemp("audio")
    command = ["train", "audio-codec", "--preset", "tiny", "--steps", "3", "--out", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(AUDIO_RECIPES, "tiny", replace(TINY, clips=6, checked=1, fitted=6))
        assert cli.main(command) == 0
    return folder


def test_command_writes_weights_and_results(trained, bank):
    record = json.loads((trained / "results.json").read_text(encoding="utf-8"))
    values = record["values"]
    assert record["command"] == "talker-t2av train audio-codec --preset tiny --out DIR --steps 3"
    assert (
        values["training"]["steps"] == 3
        and values["size"]["file_bytes"] == (trained / "model.safetensors").stat().st_size
    )
    assert {"original", "codec", "pca"} == set(values["test"]) == set(values["test_voices"])
    assert len(values["latents"]["kl"]) == TINY.config.latent_size and set(values["voices"]) <= set(
        VOICES
    )
    assert list((trained / "samples").glob("*.wav"))
    codec = AudioCodec.from_pretrained(trained)
    latent = codec.encode(bank[0]["wav"][None])
    assert latent.shape[-1] == TINY.config.latent_size and latent.abs().max() < 20
    assert codec.decode(latent).shape == bank[0]["wav"][None].shape


def test_command_refuses_to_mix_trainings(trained, tmp_path, capsys):
    command = ["train", "audio-codec", "--preset", "tiny", "--steps", "3", "--out"]
    assert cli.main([*command, str(trained)]) == 2 and "resume" in capsys.readouterr().err
    assert (
        cli.main([*command, str(tmp_path), "--resume"]) == 2
        and "nothing to resume" in capsys.readouterr().err
    )
    assert (
        cli.main(
            [
                "train",
                "audio-codec",
                "--preset",
                "tiny",
                "--semantic",
                str(tmp_path),
                "--out",
                str(tmp_path),
            ]
        )
        == 2
    )
    assert "config.json" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_interrupted_and_resumed_gives_the_same_weights(tmp_path, monkeypatch):
    whole, history = train_audio_codec(QUICK, tmp_path / "whole", workers=1, progress=False)
    calls, loss = [], audio_training.audio_loss

    def breaks(model, batch, generator):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return loss(model, batch, generator)

    with monkeypatch.context() as patch:
        patch.setattr(audio_training, "audio_loss", breaks)
        with pytest.raises(KeyboardInterrupt):
            train_audio_codec(QUICK, tmp_path / "broken", workers=1, progress=False)
    resumed, again = train_audio_codec(
        QUICK, tmp_path / "broken", resume=True, workers=1, progress=False
    )
    assert len(history) == len(again) == QUICK.train.steps
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_crops_depend_on_seed_and_step_and_share_out_the_batch(bank):
    crops = SpeechCrops(bank, build_trainer(TINY).learner.codec, frames=5)
    at = crops.batches(4, seed=1)
    first, second = next(at(5)), at(4)
    next(second)
    assert torch.equal(first["wav"], next(second)["wav"])
    assert not torch.equal(first["wav"], next(crops.batches(4, seed=2)(5))["wav"])
    assert (
        len(next(at(0, 1, 2))["wav"]) == 2
        and first["wav"].shape == (4, 5 * 960)
        and first["semantic"].shape[:2] == (4, 5)
        and first["pitch"].shape == (4, 20)
    )
    assert ((first["pitch"] == 0) | ((first["pitch"] > 50) & (first["pitch"] < 600))).all()
    with pytest.raises(ValueError, match="frames: no clip"):
        SpeechCrops(bank, build_trainer(TINY).learner.codec, frames=10_000)


def test_frozen_encoder_and_no_discriminators():
    trainer = build_trainer(TINY)
    assert not any(p.requires_grad for p in trainer.learner.codec.semantic.parameters())
    assert build_trainer(replace(TINY, discriminators=None)).discriminators is None


@settings(max_examples=15, deadline=None)
@given(pitch=st.floats(70, 400), level=st.floats(0.1, 1.0), tilt=st.floats(0.3, 0.85))
def test_pitch_of_a_buzz(pitch, level, tilt):
    time = torch.arange(SAMPLE_RATE // 2, dtype=torch.float64) / SAMPLE_RATE
    buzz = sum(
        tilt**k * torch.cos(2 * torch.pi * k * pitch * time + k)
        for k in range(1, int(3500 / pitch) + 1)
    ).float()
    hertz, voiced = track_pitch(level * buzz / buzz.abs().max())
    inner = slice(3, -6)  # windows that lie wholly in the sound
    assert voiced[inner].all()
    assert (1200 * (hertz[inner] / pitch).log2()).abs().max() < 35


def test_similarity_is_a_correlation():
    wav = torch.randn(12_000, generator=torch.Generator().manual_seed(0))
    similar = self_similarity(wav[None])[0]
    assert similar.shape == (50, 135) and similar.abs().max() <= 1 + 1e-4
    torch.testing.assert_close(similar[:, 0], torch.ones(50), atol=1e-3, rtol=0)
    # window 25 is centred on sample 2,000
    piece = load_torchaudio().functional.resample(wav, SAMPLE_RATE, 8_000)[2000 - 120 :]
    lag = 37
    expected = torch.dot(piece[:240], piece[lag : lag + 240]) / (
        piece[:240].norm() * piece[lag : lag + 240].norm()
    )
    torch.testing.assert_close(similar[25, lag], expected, atol=1e-3, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(self_similarity(wav[None])[0], similar)
    assert torch.equal(self_similarity(torch.zeros(2, 4800)), torch.zeros(2, 20, 135))


def test_a_hum_under_a_hiss_is_no_voice():
    """Similar enough, but most of the sound is elsewhere."""
    time, generator = torch.arange(SAMPLE_RATE) / SAMPLE_RATE, torch.Generator().manual_seed(0)
    hum = 0.02 * sum(torch.cos(2 * torch.pi * 120 * k * time) for k in (1, 2, 3))
    hiss = load_torchaudio().functional.highpass_biquad(
        0.3 * torch.randn(SAMPLE_RATE, generator=generator), SAMPLE_RATE, 6_000
    )
    assert track_pitch(hum)[1][3:-6].all() and track_pitch(hum + hiss)[1].float().mean() < 0.05
    assert not track_pitch(0.01 * hum)[1].any()


def test_a_sound_is_like_itself_and_its_double_is_an_octave_up(bank):
    wav = bank[0]["wav"]
    same = pitch_errors(wav, wav)
    assert same["cents"] == same["gross"] == same["flipped"] == 0 and same["voiced"] > 20
    assert compare([wav], [wav])["pitch_gross"] == 0
    time = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    octave = pitch_errors(
        torch.sin(2 * torch.pi * 240 * time) * 0.3, torch.sin(2 * torch.pi * 120 * time) * 0.3
    )
    assert octave["gross"] == octave["voiced"] > 80


needs_weights = pytest.mark.skipif(
    not (data_dir() / "small" / "audio_codec" / "model.safetensors").is_file(),
    reason="no trained weights here",
)


@needs_weights
def test_shipped_codec_keeps_speech_and_its_latents_are_normal(bank):
    codec = AudioCodec.from_pretrained("small")
    wavs = [item["wav"] for item in bank]
    found, stats = compare(pass_through(codec, wavs), wavs), audio_latent_statistics(codec, wavs)
    assert found["log_mel"] < 0.5 and found["stft"] < 1.5
    # it has a melody
    assert found["pitch_gross"] < 0.1 and found["pitch_cents"] < 60 and found["voicing"] < 0.15
    assert (
        torch.tensor(stats["mean"]).abs().mean() < 0.5
        and 0.5 < torch.tensor(stats["std"]).mean() < 1.3
    )
    assert (data_dir() / "small" / "audio_codec" / "model.safetensors").stat().st_size < 10 * 2**20
