"""The judge: what it takes, that it depends on nothing of the codec, its measure against known
damage, exact stored weights.
"""

import json
from dataclasses import replace

import pytest
import torch

from talker_t2av import cli
from talker_t2av.codecs.audio import judge as judge_module
from talker_t2av.codecs.audio.judge import (
    JUDGE_PRESETS,
    JUDGE_RECIPES,
    SHORTEST,
    Judge,
    confusions,
    judge_loss,
    phoneme_error_rate,
)
from talker_t2av.codecs.audio.semantic import SPOKEN_SYMBOLS, join_clips, speech_bank
from talker_t2av.codecs.audio.spectrogram import JUDGE_MEL, log_mel
from talker_t2av.common.media import data_dir

SYMBOLS = list(SPOKEN_SYMBOLS)
shipped = pytest.mark.skipif(
    not (data_dir() / "small" / "judge" / "model.safetensors").is_file(),
    reason="no trained weights",
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return Judge(JUDGE_PRESETS["tiny"], SYMBOLS).eval()


@pytest.fixture(scope="module")
def bank():
    return speech_bank(40, "test", seed=9)


@pytest.mark.parametrize("samples", [4_800, 4_801, 24_000, 30_720])
def test_one_step_every_20_ms(tiny, samples):
    found = tiny(0.1 * torch.randn(2, samples, generator=rng()))
    assert found.shape == (2, -(-(samples // 240) // 2), len(SYMBOLS) + 1)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(found.shape[:2]))


def test_loudness_does_not_matter(bank):
    wav = bank[0]["wav"][None]
    torch.testing.assert_close(
        log_mel(wav * 0.1, JUDGE_MEL, 64), log_mel(wav, JUDGE_MEL, 64), atol=1e-4, rtol=0
    )
    assert log_mel(wav * 0, JUDGE_MEL, 64).isfinite().all()


def test_company_does_not_matter(tiny, bank):
    """A sound is heard alike alone and among others, in the order given."""
    wavs = [item["wav"] for item in bank][:6]
    assert tiny.transcribe(wavs) == [tiny.transcribe([wav])[0] for wav in wavs]


@pytest.mark.parametrize(
    "change, error, words",
    [
        (lambda w: [], ValueError, "empty"),
        (lambda w: [w[None]], ValueError, r"wavs\[0\].*mono"),
        (lambda w: [w, w[:100]], ValueError, rf"wavs\[1\].*{SHORTEST:g} s"),
        (lambda w: [w * float("nan")], ValueError, "NaN"),
        (lambda w: [(w * 32767).short()], TypeError, "int16"),
        (lambda w: [w.numpy()], TypeError, "ndarray"),
    ],
)
def test_bad_sounds(tiny, change, error, words):
    with pytest.raises(error, match=words):
        tiny.transcribe(change(0.1 * torch.randn(24_000, generator=rng())))


def test_bad_phonemes(tiny):
    wav = torch.zeros(24_000)
    with pytest.raises(ValueError, match="unknown symbols"):
        phoneme_error_rate(tiny, [wav], [["qq"]])
    with pytest.raises(ValueError, match="2 for 1 sounds"):
        phoneme_error_rate(tiny, [wav], [["k"], ["k"]])


def test_rate_counts_swapped_symbols(tiny, bank):
    """With the truth in the judge's mouth, the rate is exactly the share of
    symbols that we falsify.
    """
    spoken = bank.phonemes
    tiny.transcribe, total = lambda wavs: spoken, sum(map(len, spoken))
    try:
        for swapped in (0, 7, 30):
            truth = [list(row) for row in spoken]
            # no two neighbours: an alignment could save one
            places = [(i, j) for i, row in enumerate(truth) for j in range(0, len(row), 3)]
            for place in torch.randperm(len(places), generator=rng(1))[:swapped].tolist():
                i, j = places[place]
                truth[i][j] = "ʒ" if truth[i][j] != "ʒ" else "ɔɪ"
            found = phoneme_error_rate(tiny, [item["wav"] for item in bank], truth)
            assert (
                found["errors"] == swapped
                and found["rate"] == swapped / total
                and len(found["per_clip"]) == len(bank)
            )
    finally:
        del tiny.transcribe


def test_confusions():
    found = confusions([["k", "æ", "t"], ["s"], []], [["b", "æ", "t", "s"], ["t", "s"], ["n̩"]])
    assert found == {
        ("b", "k"): 1,
        ("æ", "æ"): 1,
        ("t", "t"): 1,
        ("s", ""): 1,
        ("t", ""): 1,
        ("s", "s"): 1,
        ("n̩", ""): 1,
    }


def test_it_owes_the_codec_nothing(tiny):
    """No layer of the judge is one of the codec's."""
    ours = {type(module).__module__ for module in tiny.modules()}
    assert not {
        name for name in ours if name.startswith("talker_t2av.") and name != judge_module.__name__
    }
    assert JUDGE_RECIPES["small"].bank != 100


def test_command_and_weights(tmp_path, monkeypatch, capsys):
    recipe = JUDGE_RECIPES["tiny"]
    monkeypatch.setitem(
        JUDGE_RECIPES,
        "tiny",
        replace(
            recipe, clips=24, seconds=6.0, checked=2, tested=4, train=replace(recipe.train, steps=2)
        ),
    )
    out = tmp_path / "run"
    assert cli.main(["train", "judge", "--preset", "tiny", "--out", str(out)]) == 0
    values = json.loads((out / "results.json").read_text())["values"]
    assert values["training"]["steps"] == 2 and {"test", "test_words", "test_voices"} <= set(values)
    back = Judge.from_pretrained(out)
    assert (
        back.symbols == tuple(SYMBOLS)
        and not back.training
        and list(back.config.dilations) == [1, 2]
    )
    with pytest.raises(FileNotFoundError):
        Judge.from_pretrained(tmp_path / "nowhere")
    assert (
        cli.main(["train", "judge", "--preset", "tiny", "--out", str(out)]) == 2
        and "holds checkpoints" in capsys.readouterr().err
    )


def test_loss_falls(bank):
    torch.manual_seed(0)
    model, batch = Judge(JUDGE_PRESETS["tiny"], SYMBOLS), join_clips(bank, [[0], [1], [2]])
    optimizer, losses = torch.optim.AdamW(model.parameters(), 5e-3), []
    for _ in range(40):
        losses.append(judge_loss(model, batch, rng())["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[5]  # past the first steps, which only learn to say nothing


@shipped
def test_shipped_judge_is_good_and_reacts(bank):
    judge, wavs = Judge.from_pretrained("small"), [item["wav"] for item in bank]
    clean = phoneme_error_rate(judge, wavs, bank.phonemes)["rate"]
    stated = json.loads((data_dir() / "results" / "judge.json").read_text())["values"]["test"][
        "rate"
    ]
    noisy = phoneme_error_rate(
        judge,
        [wav + 0.05 * torch.randn(len(wav), generator=rng(i)) for i, wav in enumerate(wavs)],
        bank.phonemes,
    )["rate"]
    silent = phoneme_error_rate(judge, [wav * 0 for wav in wavs], bank.phonemes)["rate"]
    assert clean < 2 * stated + 0.02 and noisy > clean + 0.05 and silent > 0.85
