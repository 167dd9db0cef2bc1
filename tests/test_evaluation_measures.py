"Statistics, words, sound: what the notebooks do not already prove."

import numpy as np
import pytest
import torch
from dtw import dtw
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dct

from talker_t2av.codecs.audio.judge import Judge
from talker_t2av.codecs.speaker.encoder import SpeakerEncoder
from talker_t2av.common.measuring import energy_envelope, lag_correlation
from talker_t2av.evaluation.audio import (
    decibel_spectrogram,
    dtw_path,
    dtw_totals,
    sound_distances,
    spectral_distances,
)
from talker_t2av.evaluation.report import clip_checks, quiet_end, world_item
from talker_t2av.evaluation.speech import (
    Script,
    calibrate_speech,
    errors_by_part,
    script_of_text,
    speech_errors,
)
from talker_t2av.evaluation.statistics import (
    difference_interval,
    floor_interval,
    frechet_distance,
    frechet_interval,
    gaussian_frechet,
    kernel_interval,
    kernel_table,
    moments,
    rate_interval,
    share_interval,
)
from talker_t2av.evaluation.sync import (
    lip_lag,
    lips_shut,
    offset_distances,
    sync_scores,
)
from talker_t2av.world.corpus import make_clip


def test_rate_is_a_sum_over_a_sum():
    found = rate_interval([1, 0, 9], [10, 10, 80])
    assert found.value == pytest.approx(0.1) and found.low <= 0.1 <= found.high and found.clips == 3
    assert rate_interval([1.0, np.nan], [2.0, 5.0]).value == 0.5
    assert rate_interval([], []) is None and rate_interval([1.0], [0.0]) is None
    with pytest.raises(ValueError, match="one length"):
        rate_interval([1, 2], [1])


def test_intervals_are_the_same_every_time():
    rows = np.random.default_rng(0).random(50)
    assert rate_interval(rows) == rate_interval(rows) != rate_interval(rows, seed=1)


@pytest.mark.parametrize("successes, n", [(0, 20), (20, 20), (1, 10), (190, 200), (7, 9)])
def test_share_interval_is_wilsons(successes, n):
    """Against the definition: the shares for which the count is no surprise."""
    found = share_interval(successes, n)
    shares = np.arange(100_001) / 100_000
    spread = np.sqrt(shares * (1 - shares) / n)
    kept = shares[np.abs(successes / n - shares) <= 1.96 * spread]
    assert found.value == successes / n and found.clips == n
    assert (found.low, found.high) == pytest.approx((kept[0], kept[-1]), abs=2e-5)


@pytest.mark.parametrize("successes, n", [(1, 0), (-1, 5), (6, 5)])
def test_counts_that_cannot_be(successes, n):
    with pytest.raises(ValueError, match="share_interval"):
        share_interval(successes, n)


def test_difference_of_two_systems_is_paired():
    rng = np.random.default_rng(0)
    hard = rng.random(60)
    ones = np.ones(60)
    ours, its = hard + 0.1 + 0.01 * rng.standard_normal(60), hard
    found = difference_interval((ours, ones), (its, ones))
    assert found.value == pytest.approx((ours - its).mean()) and found.low > 0.09
    assert found.high - found.low < 0.01  # the hardness has fallen out
    holes = ours.copy()
    holes[:50] = np.nan
    assert difference_interval((holes, ones), (its, ones)).clips == 10
    assert difference_interval((ours * np.nan, ones), (its, ones)) is None
    with pytest.raises(ValueError, match="one length"):
        difference_interval((ours[:5], ones), (its, ones))


def by_hand(ours, truth):
    """Kernel distance, pair by pair."""
    every = np.concatenate(truth)
    ours, truth = (
        [(clip - every.mean(0)) / every.std(0) for clip in clips] for clips in (ours, truth)
    )

    def mean(x, y):
        return np.mean([(a @ b / len(a) + 1) ** 3 for a in x for b in y])

    entries = []
    for i in range(len(ours)):
        for j in range(len(ours)):
            if i != j:
                within = mean(ours[i], ours[j]) + mean(truth[i], truth[j])
                entries.append(within - mean(ours[i], truth[j]) - mean(truth[i], ours[j]))
    return np.mean(entries)


def test_kernel_distance_is_the_one_by_hand():
    rng = np.random.default_rng(0)
    sets = [[rng.standard_normal((int(rng.integers(1, 5)), 3)) for _ in range(6)] for _ in "ab"]
    found = kernel_interval(kernel_table(*sets))
    assert found.value == pytest.approx(by_hand(*sets)) and found.low <= found.value <= found.high


def test_kernel_distance_leaves_out_what_says_the_same():
    """Copies of vectors change nothing; a system that repeats the truth is at no distance."""
    rng = np.random.default_rng(1)
    ours, truth = [[rng.standard_normal((3, 8)) for _ in range(30)] for _ in "ab"]
    plain = kernel_interval(kernel_table(ours, truth)).value
    doubled = [np.repeat(clip, 2, axis=0) for clip in ours]
    assert kernel_interval(kernel_table(doubled, truth)).value == pytest.approx(plain)
    assert kernel_interval(kernel_table(truth, truth)).value == pytest.approx(0, abs=1e-9)
    moved = [clip + 1 for clip in ours]
    assert kernel_interval(kernel_table(moved, truth)).low > abs(plain)
    still = [np.concatenate([clip, np.ones((3, 1))], axis=1) for clip in truth]
    jumping = [np.concatenate([clip, rng.random((3, 1))], axis=1) for clip in ours]
    assert kernel_interval(kernel_table(jumping, still)).value == pytest.approx(plain)
    assert kernel_interval(kernel_table(ours[:3], truth[:3])) is None
    assert np.isfinite(kernel_interval(kernel_table(ours[:4], truth[:4]))).all()
    with pytest.raises(ValueError, match="30 and 29"):
        kernel_table(ours, truth[1:])


def test_frechet_distance_of_known_gaussians():
    eye = np.eye(5)
    assert gaussian_frechet(np.zeros(5), eye, np.zeros(5), eye) == pytest.approx(0, abs=1e-9)
    assert gaussian_frechet(np.zeros(5), eye, np.ones(5), 9 * eye) == pytest.approx(5 + 5 * 4)
    flat = np.diag([1.0, 0, 0, 0, 0])  # a crowd that varies in one direction only
    assert gaussian_frechet(np.zeros(5), eye, np.zeros(5), flat) == pytest.approx(4)


def test_crowds_of_one_world_are_near_and_a_moved_one_is_not():
    rng = np.random.default_rng(0)
    make = lambda shift: moments(
        [rng.standard_normal((12, 4)) + 0.3 * rng.standard_normal(4) + shift for _ in range(40)]
    )
    a, b, moved = make(0), make(0), make(1)
    assert (
        frechet_interval(a, b).low == 0
        and frechet_interval(a, moved).low > frechet_interval(a, b).high
    )
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9) and floor_interval(a).value > 0
    with pytest.raises(ValueError, match="two feature vectors"):
        frechet_distance(moments([np.zeros((0, 3)), np.zeros((1, 3))]), a)


WORDS = Script(list("abcdefgh"), [0, 0, 1, 1, 1, 2, 3, 3])


@given(st.text("abcdefghxyz", max_size=14))
@settings(max_examples=60, deadline=None)
def test_errors_add_up(guess):
    found = speech_errors(list(guess), WORDS)
    assert found.errors == found.wrong.sum() >= abs(
        len(guess) - 8
    ) and 0 <= found.word_errors <= 4 + len(guess)
    assert errors_by_part(found, 4).sum(0).tolist() == [found.errors, 8]
    assert (found.errors == 0) == (guess == "abcdefgh") == (found.word_errors == 0)


def test_script_of_a_text_knows_its_words():
    script = script_of_text("Six warm moons.", "theo")
    assert script.word_of == sorted(script.word_of) and set(script.word_of) == {0, 1, 2}
    assert (
        script_of_text("Six warm moons.", "nobody we know").phonemes
        == script_of_text("Six warm moons.").phonemes
    )
    with pytest.raises(ValueError, match="parts"):
        errors_by_part(speech_errors([], script), 500)


def test_error_rates_follow_what_was_done_to_the_sound():
    judge = Judge.from_pretrained("small")
    found = calibrate_speech(
        judge, [make_clip(seed, "validation", video=False) for seed in range(12)]
    )
    rate = {name: row["phonemes"]["value"] for name, row in found.items()}
    assert (
        rate["original"] < 0.06
        and rate["original"] < rate["swapped 5%"] < rate["swapped 10%"] < rate["noise 0 dB"]
    )
    rise = (rate["swapped 10%"] - rate["original"]) / found["swapped 10%"]["truly swapped"]
    assert 0.5 < rise < 2.5 and rate["noise alone"] > 0.7
    assert all(
        row["words"]["value"] >= row["phonemes"]["value"]
        for name, row in found.items()
        if name.startswith("swapped")
    )


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_dynamic_time_warping_equals_a_library(m, k, seed):
    cost = np.random.default_rng(seed).random((m, k))
    theirs = dtw(cost, step_pattern="symmetric1", keep_internals=True)
    assert np.allclose(dtw_totals(cost), theirs.costMatrix)
    i, j = dtw_path(cost)
    assert cost[i, j].sum() == pytest.approx(theirs.distance)
    assert i.tolist() == theirs.index1.tolist() and j.tolist() == theirs.index2.tolist()


def test_an_empty_side_has_no_path():
    with pytest.raises(ValueError, match="a moment or more"):
        dtw_path(np.zeros((0, 3)))


def test_mel_cepstral_distance_has_the_usual_scale():
    """Two spectra whose levels differ by a cosine over the bands, of 6 dB, differ by 6 / sqrt(2)
    dB (root mean square): both distances must say so.
    """
    truth = np.full((30, 80), -20.0)
    ours = truth + 6 * np.cos(np.pi * 3 * (np.arange(80) + 0.5) / 80)
    along = np.arange(30)
    found = spectral_distances(ours, truth, along, along)
    assert found["mel_cepstral"] == pytest.approx(6 / np.sqrt(2))
    assert found["log_spectral"] == pytest.approx(6 / np.sqrt(2))


def test_mel_cepstral_distance_equals_scipy():
    rng = np.random.default_rng(0)
    ours, truth = rng.uniform(-40, 0, (2, 30, 80))
    along = np.arange(30)
    shape = dct((ours - truth) * np.log(10) / 20)[:, 1:14] / 80  # 2 / 80 sum of x cos
    by_hand = 10 / np.log(10) * np.sqrt(2 * np.square(shape).sum(1)).mean()
    assert spectral_distances(ours, truth, along, along)["mel_cepstral"] == pytest.approx(by_hand)


class Deaf:
    embedding_size = 2

    def encode(self, wav, sample_rate=24_000):
        return torch.tensor([[1.0, 0.0]])


def test_sound_distances_notice_silence_and_half_speed():
    clip = make_clip(0, "test", video=False)
    wav = torch.from_numpy(clip.wav)
    same = sound_distances(wav, wav, clip.phonemes, Deaf())
    assert (
        same["mel_cepstral"] < 1e-4
        and same["duration_distance"] == 0 == same["length_error"] == same["voicing"]
    )
    silent = sound_distances(torch.zeros(9600), wav, clip.phonemes, Deaf())
    assert (
        silent["log_spectral"] > 20
        and np.isnan(silent["speaker"])
        and np.isnan(silent["pitch_cents"])
    )
    assert decibel_spectrogram(wav).shape == (len(wav) // 240, 80)


def test_delays_have_the_right_sign():
    rng = np.random.default_rng(0)
    a = rng.standard_normal(60)
    for late in (-7, 0, 5):
        assert lip_lag(a, np.roll(a, late))[0] == late
        seen = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((60, 8))), dim=-1)
        assert sync_scores(offset_distances(seen.roll(late, 0), seen)).offset == late
    assert lag_correlation(a, a, 3)[3] == pytest.approx(1)
    for bad in ((a, a[:-1]), (a[:5], a[:5])):
        with pytest.raises(ValueError, match="one length"):
            lag_correlation(*bad)
    with pytest.raises(ValueError, match="above 15"):
        offset_distances(seen[:10], seen[:10])
    assert energy_envelope(np.ones(960 * 3, np.float32)).tolist() == [1, 1, 1]


def test_lips_are_shut_within_a_frame():
    opening = np.array([0.1, 0.1, 0.01, 0.1, 0.1, 0.1])
    assert lips_shut(opening, np.array([1, 2, 3])) == 1 and lips_shut(opening, np.array([4])) == 0
    assert lips_shut(opening, np.array([1]), tolerance=0) == 0 and np.isnan(
        lips_shut(opening, np.array([99]))
    )


def test_plain_questions_notice_what_they_ask_for():
    """A lost word, an endless end, a wrong length and another voice are each noticed, and
    by no other question.
    """
    encoder, item = SpeakerEncoder.from_pretrained("small"), world_item(3, "test")
    truth, script = torch.from_numpy(item.wav), item.script
    whole = speech_errors(script.phonemes, script)
    kept = clip_checks(truth, whole, item, encoder)
    assert kept == {
        "no_word_lost": True,
        "stop_accuracy": True,
        "length_within_15": True,
        "voice_accuracy": True,
    }
    first_gone = speech_errors([s for s, word in zip(*script) if word > 0], script)
    last_gone = speech_errors([s for s, word in zip(*script) if word < max(script.word_of)], script)
    changed = lambda wav, found: {
        name
        for name, value in clip_checks(wav, found, item, encoder).items()
        if value != kept[name]
    }
    assert changed(truth, first_gone) == {"no_word_lost"} and changed(truth, last_gone) == {
        "no_word_lost",
        "stop_accuracy",
    }
    assert "stop_accuracy" in changed(torch.cat([truth, torch.zeros(24_000)]), whole)
    assert "length_within_15" in changed(torch.cat([torch.zeros(len(truth) // 5), truth]), whole)
    others = (world_item(seed, "test") for seed in range(4, 20))
    other = next(clip for clip in others if clip.voice != item.voice)
    assert "voice_accuracy" in changed(torch.from_numpy(other.wav), whole)
    # one wrong sound does not lose it
    long_word = max(set(script.word_of), key=script.word_of.count)
    one_sound = speech_errors(
        [s for i, s in enumerate(script.phonemes) if i != script.word_of.index(long_word)], script
    )
    assert one_sound.errors == 1 and clip_checks(truth, one_sound, item, encoder)["no_word_lost"]


def test_quiet_at_the_end_is_measured_in_seconds():
    tone = torch.sin(torch.arange(24_000) / 9)
    assert quiet_end(tone) == 0 and quiet_end(
        torch.cat([tone, torch.zeros(12_000)])
    ) == pytest.approx(0.5, abs=0.02)
    assert quiet_end(torch.zeros(24_000)) == 1.0 and quiet_end(
        torch.cat([tone, 0.001 * tone])
    ) == pytest.approx(1.0, abs=0.02)
