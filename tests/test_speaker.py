"""The speaker encoder: what it takes, what it must not depend on, its loss and its measure
against brute force, exact resume, shipped weights.
"""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from talker_t2av.cli import main
from talker_t2av.codecs.audio.spectrogram import SPEAKER_MEL, log_mel
from talker_t2av.codecs.speaker import encoder as speaker_training
from talker_t2av.codecs.speaker.encoder import (
    SPEAKER_PRESETS,
    SPEAKER_RECIPES,
    AttentivePooling,
    MarginSoftmax,
    SpeakerClassifier,
    SpeakerConfig,
    SpeakerEncoder,
    SpeakerModel,
    all_trials,
    augment_mel,
    bootstrap_eer,
    confusion_matrix,
    crop_batches,
    cut_trials,
    equal_error_rate,
    measure,
    recordings,
    speaker_loss,
    train_speaker,
)
from talker_t2av.common import trainer as training_loop
from talker_t2av.common.media import data_dir
from talker_t2av.world.voice.voices import VOICES, voice_names


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return SpeakerEncoder(SPEAKER_PRESETS["tiny"]).eval()


@pytest.fixture(scope="module")
def wavs():
    return 0.1 * torch.randn(3, 24_000, generator=rng())


# --- the encoder


@given(samples=st.integers(12_000, 60_000), size=st.integers(1, 3))
@settings(max_examples=12, deadline=None)
def test_any_length_gives_unit_vectors(tiny, samples, size):
    wav = 0.1 * torch.randn(size, samples, generator=rng(samples))
    assert log_mel(wav, SPEAKER_MEL).shape == (size, 80, samples // 240)
    vector = tiny.encode(wav)
    assert vector.shape == (size, 16) and vector.dtype == torch.float32
    torch.testing.assert_close(vector.norm(dim=1), torch.ones(size))


def test_loudness_and_neighbours_do_not_matter(tiny, wavs):
    torch.testing.assert_close(tiny.encode(wavs * 0.05), tiny.encode(wavs), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        torch.cat([tiny.encode(wav[None]) for wav in wavs]), tiny.encode(wavs), atol=1e-5, rtol=0
    )


def test_attention_is_a_distribution(tiny, wavs):
    weights = tiny.attention(wavs)
    assert weights.shape == (3, 50) and weights.min() >= 0
    torch.testing.assert_close(weights.sum(1), torch.ones(3))


def test_pooling_follows_its_weights():
    """With all weight on one moment, the mean is that moment and the deviation
    is (almost) nothing.
    """
    pool, x = AttentivePooling(4), torch.randn(2, 4, 9, generator=rng())
    pool.weights = lambda _: F.one_hot(torch.tensor(5), 9).float().expand(2, 4, 9)
    mean, deviation = pool(x).chunk(2, dim=1)
    torch.testing.assert_close(mean, x[..., 5])
    assert deviation.max() < 0.01


@pytest.mark.parametrize(
    "change, error, words",
    [
        (lambda w: w[:, :11_999], ValueError, "0.5"),
        (lambda w: w[0], ValueError, "(B, T)"),
        (lambda w: w[:, None].expand(-1, 2, -1), ValueError, "mono"),
        (lambda w: w[:0], ValueError, "(0, 24000)"),
        (lambda w: w[:, :0], ValueError, "0.00 s"),
        (lambda w: w * math.nan, ValueError, "NaN"),
        (lambda w: w * math.inf, ValueError, "NaN"),
        (lambda w: torch.cat([w[:1], w[:1] * 0]), ValueError, "silence"),
        (lambda w: (w * 32767).short(), TypeError, "int16"),
        (lambda w: w.numpy(), TypeError, "tensor"),
        (lambda w: torch.ones(1, 61 * 24_000), ValueError, "60"),
    ],
)
def test_bad_sound_is_refused(tiny, wavs, change, error, words):
    with pytest.raises(error) as caught:
        tiny.encode(change(wavs))
    assert words in str(caught.value)


def test_wrong_rate_is_refused(tiny, wavs):
    with pytest.raises(ValueError, match="16000"):
        tiny.encode(wavs, sample_rate=16_000)


def test_another_encoder_can_take_the_place(tiny):
    class Other:  # as WavLM + ECAPA-TDNN would be
        embedding_size = 256

        def encode(self, wav, sample_rate=24_000):
            return F.normalize(torch.ones(len(wav), 256), dim=-1)

    assert (
        isinstance(tiny, SpeakerModel)
        and isinstance(Other(), SpeakerModel)
        and not isinstance(torch.nn.Linear(2, 2), SpeakerModel)
    )
    assert SpeakerEncoder(SpeakerConfig(embedding_size=256, channels=32)).embedding_size == 256
    torch.manual_seed(0)
    found = measure(
        Other().encode, torch.randn(4, 12_000), torch.tensor([0, 0, 1, 1]), interval=False
    )
    assert found["same"] == 2 and found["different"] == 4


# --- files


def test_half_precision_round_trip(tiny, wavs, tmp_path):
    tiny.save_pretrained(tmp_path, torch.float16)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    again = SpeakerEncoder.from_pretrained(str(tmp_path))
    assert (again.encode(wavs) * tiny.encode(wavs)).sum(1).min() > 0.999 and not again.training


def break_tensor(name, value):
    def change(folder):
        tensors = load_file(folder / "model.safetensors")
        tensors.pop(name)
        save_file(tensors | ({} if value is None else {name: value}), folder / "model.safetensors")

    return change


@pytest.mark.parametrize(
    "change, words",
    [
        (break_tensor("embed.weight", torch.zeros(16, 7)), "embed.weight has shape (16, 7)"),
        (break_tensor("conv_in.bias", None), "conv_in.bias is missing"),
        (break_tensor("embed.bias", torch.full((16,), math.nan)), "embed.bias holds NaN"),
        (lambda folder: (folder / "config.json").write_text('{"width": 3}'), "width"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
    ],
)
def test_checkpoint_that_does_not_fit(tiny, tmp_path, change, words):
    tiny.save_pretrained(tmp_path)
    change(tmp_path)
    with pytest.raises(ValueError) as caught:
        SpeakerEncoder.from_pretrained(tmp_path)
    assert words in str(caught.value)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        SpeakerEncoder.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="from_pretrained"):
        SpeakerEncoder.from_pretrained("./nowhere/at/all")


# --- the loss


def test_margin_softmax_is_the_formula():
    loss = MarginSoftmax(6, 5, margin=0.35, scale=12.0)
    e, y = (
        F.normalize(torch.randn(9, 6, generator=rng(1)), dim=1),
        torch.randint(5, (9,), generator=rng(2)),
    )
    angle = (e @ F.normalize(loss.directions, dim=1).T).acos()
    assert (angle.gather(1, y[:, None]) + 0.35 < math.pi).all()
    by_angles = F.cross_entropy(12 * (angle + 0.35 * F.one_hot(y, 5)).cos(), y)
    torch.testing.assert_close(loss(e, y), by_angles)


def test_margin_softmax_falls_everywhere():
    """Closer is always better, from the opposite direction to the very same one, and gradients
    stay finite at both ends.
    """
    loss = MarginSoftmax(2, 2, margin=0.4)
    with torch.no_grad():
        loss.directions.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    angle = torch.linspace(math.pi, 0, 300)
    # speaker 1's cosine, -sin, is never larger than 0
    e = torch.stack([angle.cos(), angle.sin()], 1).requires_grad_()
    values = torch.stack([loss(row[None], torch.tensor([0])) for row in e])
    assert values[0] > values[150] > values[-1]
    values.sum().backward()
    assert torch.isfinite(e.grad).all()
    right = torch.linspace(-1, 1, 500)
    # cosine with speaker 1 fixed at 0
    harder = torch.stack([-loss(torch.tensor([[c, 0.0]]), torch.tensor([0])) for c in right])
    assert (harder.diff() > -1e-5).all()


# --- the measure


def brute_force_eer(scores, same):
    best = min(
        (
            abs(
                (same & (scores < t)).sum() / same.sum()
                - (~same & (scores >= t)).sum() / (~same).sum()
            ),
            t,
        )
        for t in scores
    )
    t = best[1]
    return (
        ((same & (scores < t)).sum() / same.sum() + (~same & (scores >= t)).sum() / (~same).sum())
        / 2
    ).item()


@given(seed=st.integers(0, 10_000), n=st.integers(4, 80))
@settings(max_examples=25, deadline=None)
def test_equal_error_rate_against_brute_force(seed, n):
    scores, same = torch.randn(n, generator=rng(seed)), torch.arange(n) % 3 == 0
    rate, threshold = equal_error_rate(scores, same)
    assert abs(rate - brute_force_eer(scores, same)) < 0.5 / same.sum() + 1e-6 and 0 <= rate <= 1
    # only the order counts
    assert equal_error_rate(2 * scores + 5, same)[0] == rate and threshold in scores


def test_equal_error_rate_at_the_ends():
    scores, same = torch.tensor([3.0, 2, 1, 0]), torch.tensor([True, True, False, False])
    assert equal_error_rate(scores, same)[0] == 0 and equal_error_rate(-scores, same)[0] == 1
    for labels in (same & False, same | True, same[:3]):
        with pytest.raises(ValueError, match="equal_error_rate"):
            equal_error_rate(scores, labels)


def test_trials_and_interval():
    vectors = F.normalize(
        torch.eye(5).repeat_interleave(8, 0) + 0.45 * torch.randn(40, 5, generator=rng(3)), dim=1
    )
    speaker = torch.arange(5).repeat_interleave(8)
    scores, same = all_trials(vectors, speaker)
    assert len(scores) == 40 * 39 // 2 and same.sum() == 5 * 28
    low, high = bootstrap_eer(vectors, speaker, resamples=60)
    rate = equal_error_rate(scores, same)[0]
    assert low - 0.02 <= rate <= high + 0.02 and 0 < high - low < 0.3
    assert bootstrap_eer(vectors, speaker, resamples=60) == (low, high)
    counts = confusion_matrix(vectors, speaker)
    assert counts.sum(1).tolist() == [8] * 5 and counts.trace() > 30


# --- speech and batches


def test_recordings_are_a_function_of_their_arguments():
    voices = [VOICES["ada"], VOICES["quinn"]]
    first = list(recordings(voices, 2, "test", seed=4, seconds=1.5))
    assert [index for index, _ in first] == [0, 0, 1, 1] and min(
        len(wav) for _, wav in first
    ) >= 36_000
    for (_, a), (_, b) in zip(
        first, recordings(voices, 2, "test", seed=4, seconds=1.5), strict=True
    ):
        assert np.array_equal(a, b)
    assert not np.array_equal(
        first[0][1], next(recordings(voices, 1, "test", seed=5, seconds=1.5))[1]
    )


def test_augmentation_changes_and_repeats(wavs):
    mel = log_mel(wavs, SPEAKER_MEL)
    once = augment_mel(mel, rng(1))
    assert torch.equal(once, augment_mel(mel, rng(1))) and not torch.equal(
        once, augment_mel(mel, rng(2))
    )
    assert once.shape == mel.shape and torch.isfinite(once).all()
    torch.testing.assert_close(
        augment_mel(mel, rng(1), tilt=0, bumps=0, noise=(-200, -200)), mel, atol=0.02, rtol=0
    )


def test_batches_restart_at_any_step():
    pictures = [torch.randn(8, 300 + i, generator=rng(i)) for i in range(7)]
    make = crop_batches(pictures, torch.arange(7), batch_size=4, seed=3)
    whole, late = make(0), make(2)
    next(whole), next(whole)
    for _ in range(3):
        a, b = next(whole), next(late)
        assert torch.equal(a["mel"], b["mel"]) and torch.equal(a["speaker"], b["speaker"])
    assert next(make(0, 0, 2))["mel"].shape[0] == 2


# --- training


def test_both_questions_reach_the_encoder():
    """Loss is the sum of its parts; voices of one accent share a direction; both parts give
    the encoder gradients.
    """
    # two American, two southern (en-gb, en-rp), one northern
    voices = [VOICES[name] for name in ("ada", "dan", "hana", "lily", "nell")]
    torch.manual_seed(0)
    model = SpeakerClassifier(SPEAKER_PRESETS["tiny"], voices)
    assert model.accent_of.tolist() == [0, 0, 2, 2, 1]
    batch = {"mel": torch.randn(5, 80, 60, generator=rng(4)), "speaker": torch.arange(5)}
    losses = speaker_loss(model, batch, rng(5))
    torch.testing.assert_close(losses["loss"], losses["name"] + losses["accent"])
    for part in ("name", "accent"):
        gradient = torch.autograd.grad(losses[part], model.encoder.embed.weight, retain_graph=True)[
            0
        ]
        assert torch.isfinite(gradient).all() and gradient.abs().max() > 0


def test_killed_and_resumed_is_the_same(tmp_path, monkeypatch):
    """A training that dies after a checkpoint and goes on ends with the same
    weights, bit for bit.
    """
    recipe = SPEAKER_RECIPES["tiny"]
    recipe = replace(
        recipe,
        named=3,
        each=2,
        batch_size=4,
        train=replace(recipe.train, steps=6, save_every=3, validate_every=6),
    )
    trials = cut_trials([VOICES["ada"], VOICES["dan"]], 2, seed=1, seconds=1.0)
    # the development speech is not the point here
    monkeypatch.setattr(speaker_training, "cut_trials", lambda *args, **settings: trials)
    whole, _ = train_speaker(recipe, tmp_path / "whole", progress=False)
    save = training_loop.save_checkpoint

    def die_after(*args):
        save(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(training_loop, "save_checkpoint", die_after)
    with pytest.raises(KeyboardInterrupt):
        train_speaker(recipe, tmp_path / "killed", progress=False)
    monkeypatch.setattr(training_loop, "save_checkpoint", save)
    resumed, history = train_speaker(recipe, tmp_path / "killed", resume=True, progress=False)
    assert len(history) == 6
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def command(*words) -> int:
    return main(["train", "speaker", *map(str, words)])


def test_command_refuses_in_one_line(tmp_path, capsys):
    assert command("--preset", "tiny", "--out", tmp_path / "empty", "--resume") == 2
    assert command("--preset", "tiny", "--out", tmp_path / "empty", "--steps", -3) == 2
    (tmp_path / "used" / "checkpoint-00000001").mkdir(parents=True)
    assert command("--preset", "tiny", "--out", tmp_path / "used") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 3 and all(line.startswith("talker-t2av train speaker: ") for line in lines)


# --- what is shipped


def test_shipped_weights_know_strangers():
    """A fresh set of trials, smaller than the chapter's: 8 held-out voices, 2 s."""
    encoder = SpeakerEncoder.from_pretrained("small")
    assert (data_dir() / "small" / "speaker" / "model.safetensors").stat().st_size < 2e6
    wavs, speaker = cut_trials(
        [VOICES[name] for name in voice_names("held-out")], 5, seed=77, seconds=2.0
    )
    assert measure(encoder.encode, wavs, speaker, interval=False)["eer"] < 0.08


def test_recorded_results_meet_the_target():
    record = json.loads((data_dir() / "results" / "speaker.json").read_text())
    values = record["values"]
    assert (
        record["command"].startswith("talker-t2av train speaker --preset small")
        and len(values["seeds"]) >= 3
    )
    rates = [found["2"]["eer"] for found in values["held_out"]]
    assert max(rates) <= 0.05 < min(found["2"]["eer"] for found in values["baseline"])
    assert sum(map(sum, values["confusion"])) == values["trials_each"] * len(values["voices"])
