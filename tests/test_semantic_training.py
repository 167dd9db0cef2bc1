"""The speech bank, its batches, and the training of recognisers: same arguments same bytes,
exact resume, stored weights, clear errors.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from talker_t2av import cli
from talker_t2av.codecs.audio import semantic
from talker_t2av.codecs.audio.semantic import (
    SEMANTIC_PRESETS,
    SEMANTIC_RECIPES,
    SPOKEN_SYMBOLS,
    PhonemeRecogniser,
    SelfAttention,
    SpeechBank,
    count_errors,
    join_clips,
    joined_bank,
    recogniser_loss,
    speech_bank,
    speech_batches,
    spoken_clip,
    train_recogniser,
    transcribe_all,
    white_noise,
)
from talker_t2av.common.media import data_dir
from talker_t2av.world.voice.voices import TRAIN_VARIANTS, invent_voices, voice_names

SYMBOLS = list(SPOKEN_SYMBOLS)


@pytest.fixture(scope="module")
def bank():
    return speech_bank(24, seed=3)


def toy_bank(lengths):
    "A bank of silent clips of these lengths in frames; clip i says i."
    return SpeechBank(
        [torch.zeros(960 * n, dtype=torch.int16) for n in lengths],
        [[str(i)] for i in range(len(lengths))],
        ["x"] * len(lengths),
    )


# --- the bank


def test_same_arguments_same_bytes(bank):
    """Also for another number of processes; another seed gives other clips."""
    again = speech_bank(5, seed=3, workers=2)
    assert (
        all(torch.equal(a, b) for a, b in zip(again.wavs, bank.wavs))
        and again.phonemes == bank.phonemes[:5]
        and again.voices == bank.voices[:5]
    )
    assert not any(torch.equal(a, b) for a, b in zip(speech_bank(5, seed=4).wavs, bank.wavs))


def test_items(bank):
    for item in bank:
        assert (
            item["wav"].dtype == torch.float32
            and item["wav"].ndim == 1
            and len(item["wav"]) % 3840 == 0
        )
        assert (
            0.1 < item["wav"].abs().max() <= 1
            and set(item["phonemes"]) <= set(SYMBOLS)
            and item["phonemes"]
        )
    assert bank.seconds == pytest.approx(sum(len(item["wav"]) for item in bank) / 24_000)


def test_who_speaks(bank):
    named = set(voice_names("train"))
    assert 4 < sum(voice in named for voice in bank.voices) < 20  # half invented
    assert (
        set(speech_bank(6, invented=0.0).voices) <= named
        and not set(speech_bank(6, invented=1.0).voices) & named
    )
    assert set(speech_bank(6, "test_voices", invented=1.0).voices) <= set(voice_names("held-out"))
    assert {voice for voice in bank.voices if voice not in named} <= {
        voice.name for voice in invent_voices(TRAIN_VARIANTS)
    }


@pytest.mark.parametrize(
    "change, words",
    [
        ({"n_clips": 0}, "n_clips"),
        ({"split": "trian"}, "trian"),
        ({"seed": -1}, "-1"),
        ({"invented": 1.5}, "1.5"),
        ({"neural": -0.5}, "-0.5"),
        ({"n_clips": 10**7}, "10000000"),
    ],
)
def test_bank_refuses(change, words):
    with pytest.raises(ValueError, match=words):
        speech_bank(**{"n_clips": 2} | change)


def test_order_does_not_matter():
    """Clips of invented voices are the same whatever was spoken before them."""
    tasks = [(number, "train", 1.0) for number in range(70, 90)]
    forth, back = ([spoken_clip(*task)[0] for task in order] for order in (tasks, tasks[::-1]))
    assert all(np.array_equal(a, b) for a, b in zip(forth, back[::-1], strict=True))


# --- batches


def test_batches_restart_anywhere(bank):
    make = speech_batches(bank, 12, seed=5, joined=0.5)
    first, later = make(0, 0, 1), make(2, 0, 1)
    next(first), next(first)
    for _ in range(3):
        a, b = next(first), next(later)
        assert (
            torch.equal(a["wav"], b["wav"])
            and torch.equal(a["samples"], b["samples"])
            and a["phonemes"] == b["phonemes"]
        )
    assert not torch.equal(next(make(0, 1, 2))["samples"], next(make(0, 0, 2))["samples"])


@given(
    lengths=st.lists(st.integers(5, 200), min_size=1, max_size=40),
    seconds=st.floats(1, 40),
    joined=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_batches_are_whole(lengths, seconds, joined, seed):
    """Any bank gives batches whose rows are whole clips, none twice, no longer than allowed."""
    bank = toy_bank(lengths)
    batch = next(speech_batches(bank, seconds, seed, joined)(0, 0, 1))
    members = [int(symbol) for row in batch["phonemes"] for symbol in row]
    assert len(set(members)) == len(members) > 0
    assert batch["samples"].tolist() == [
        sum(960 * lengths[int(s)] for s in row) for row in batch["phonemes"]
    ]
    assert batch["wav"].shape == (len(batch["phonemes"]), batch["samples"].max())
    assert all(len(row) <= (4 if joined else 1) for row in batch["phonemes"])


def test_joined_rows_hold_what_their_clips_hold(bank):
    batch = join_clips(bank, [[0, 1], [2]])
    assert torch.equal(
        batch["wav"][0, : batch["samples"][0]], torch.cat([bank[0]["wav"], bank[1]["wav"]])
    )
    assert batch["phonemes"] == [bank.phonemes[0] + bank.phonemes[1], bank.phonemes[2]]
    assert not batch["wav"][1, batch["samples"][1] :].any()
    four = joined_bank(bank, 4)
    assert len(four) == 6 and torch.equal(four.wavs[1], torch.cat(bank.wavs[4:8]))


# --- loss and measures


def test_padding_does_not_move_the_loss(bank):
    """A row's loss ignores what comes after its end, but for what the encoder hears of it."""
    model = PhonemeRecogniser(SEMANTIC_PRESETS["tiny"], SYMBOLS)
    # deaf: every step is alike
    model.encoder.forward = lambda mel: torch.zeros(len(mel), mel.shape[-1] // 2, 128)
    one = join_clips(bank, [[0]])
    wide = {
        "wav": torch.cat([one["wav"], torch.zeros(1, 24_000)], dim=1),
        "samples": one["samples"],
        "phonemes": one["phonemes"],
    }
    losses = [
        recogniser_loss(model, batch, torch.Generator().manual_seed(1))["loss"]
        for batch in (one, wide)
    ]
    torch.testing.assert_close(*losses, rtol=0.03, atol=0)  # a step more or less, by rounding


def levenshtein(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, old = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(old[j] + 1, row[-1] + 1, old[j - 1] + (x != y)))
    return row[-1]


words = st.lists(st.sampled_from(["aɪə", "aɪ", "ə", "n̩", "n", "tʃ", "t"]), max_size=9)


@given(rows=st.lists(st.tuples(words, words.filter(bool)), min_size=1, max_size=4))
@settings(deadline=None)
def test_errors_against_brute_force(rows):
    heard, spoken = zip(*rows)
    found = count_errors(heard, spoken)
    assert (
        found["errors"]
        == sum(levenshtein(a, b) for a, b in rows)
        == found["substitutions"] + found["deletions"] + found["insertions"]
    )
    assert found["rate"] == found["errors"] / found["total"] and found["total"] == sum(
        map(len, spoken)
    )


def test_count_errors_refuses():
    with pytest.raises(ValueError, match="2 transcripts for 1"):
        count_errors([["a"], ["b"]], [["a"]])
    with pytest.raises(ValueError, match="without phonemes"):
        count_errors([["a"]], [[]])
    with pytest.raises(ValueError, match="at least one clip"):
        count_errors([], [])


@given(
    lengths=st.lists(st.sampled_from([960, 1920, 4800]), min_size=1, max_size=12),
    seconds=st.floats(0.01, 1),
)
@settings(deadline=None)
def test_transcripts_keep_their_order(lengths, seconds):
    wavs = [torch.full((length,), float(i)) for i, length in enumerate(lengths)]
    heard = transcribe_all(
        lambda part: [[f"{row[0]:g}", str(len(row))] for row in part], wavs, seconds
    )
    assert heard == [[str(i), str(length)] for i, length in enumerate(lengths)]


def test_noise_has_its_level():
    assert white_noise(-30)(torch.zeros(50_000)).pow(2).mean().log10() * 10 == pytest.approx(
        -30, abs=0.2
    )


def test_both_ways_of_attention_agree(monkeypatch):
    attention, x = (
        SelfAttention(32, 4),
        torch.randn(2, 70, 32, generator=torch.Generator().manual_seed(0)),
    )
    found = []
    for longest in (70, 69):  # written out, fused
        monkeypatch.setattr(semantic, "PLAIN_ATTENTION", longest)
        found.append(attention(x))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


# --- training, weights, command


def quick(**train):
    recipe = SEMANTIC_RECIPES["tiny"]
    return replace(
        recipe,
        clips=24,
        seconds=6.0,
        checked=2,
        train=replace(recipe.train, **{"steps": 6, "save_every": 3, "validate_every": 6} | train),
    )


def test_resume_is_exact(tmp_path):
    build = lambda: PhonemeRecogniser(SEMANTIC_PRESETS["tiny"], SYMBOLS)
    whole, history = train_recogniser(
        build, recogniser_loss, quick(), tmp_path / "whole", progress=False
    )
    calls = []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return recogniser_loss(*args)

    with pytest.raises(KeyboardInterrupt):
        train_recogniser(build, interrupted, quick(), tmp_path / "part", progress=False)
    resumed, again = train_recogniser(
        build, recogniser_loss, quick(), tmp_path / "part", resume=True, progress=False
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), resumed.state_dict().values())
    )
    assert again == history and 0 <= history[-1]["validation"]["error"]
    with pytest.raises(FileExistsError):
        train_recogniser(build, recogniser_loss, quick(), tmp_path / "whole", progress=False)
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        train_recogniser(
            build, recogniser_loss, quick(), tmp_path / "none", resume=True, progress=False
        )


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SEMANTIC_RECIPES, "tiny", replace(quick(steps=4), tested=4))
    out = tmp_path / "run"
    assert (
        cli.main(
            [
                "train",
                "semantic",
                "--preset",
                "tiny",
                "--out",
                str(out),
                "--results",
                str(tmp_path / "r.json"),
                "--steps",
                "3",
            ]
        )
        == 0
    )
    assert "phoneme error rate" in capsys.readouterr().out
    record = json.loads((tmp_path / "r.json").read_text())
    assert (
        record["command"] == "talker-t2av train semantic --preset tiny --out DIR --steps 3"
        and record["values"]["training"]["steps"] == 3
    )
    assert {
        "test",
        "test_words",
        "test_voices",
        "noise",
        "four_in_a_row",
        "voices",
        "examples",
        "recipe",
        "size",
    } <= set(record["values"])
    assert load_file(out / "model.safetensors")["head.weight"].dtype == torch.float16
    assert PhonemeRecogniser.from_pretrained(out).symbols == tuple(SYMBOLS)
    assert cli.main(["train", "semantic", "--preset", "tiny", "--out", str(out)]) == 2
    assert "holds checkpoints" in capsys.readouterr().err


def test_weights_come_back(tmp_path):
    model = PhonemeRecogniser(SEMANTIC_PRESETS["tiny"], SYMBOLS).eval()
    model.save_pretrained(tmp_path)
    back = PhonemeRecogniser.from_pretrained(tmp_path)
    assert (
        not back.training
        and back.symbols == model.symbols
        and back.encoder.config == model.encoder.config
    )
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), back.state_dict().values())
    )
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"head.bias": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="head.bias has shape"):
        PhonemeRecogniser.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="from_pretrained"):
        PhonemeRecogniser.from_pretrained(tmp_path / "nowhere")


@pytest.mark.skipif(
    not (data_dir() / "small" / "semantic" / "model.safetensors").is_file(),
    reason="no trained weights",
)
def test_shipped_encoder_hears():
    """The shipped weights do on fresh clips of held-out voices what the
    results say, give or take.
    """
    stated = json.loads((data_dir() / "results" / "semantic.json").read_text())["values"]
    model, clips = (
        PhonemeRecogniser.from_pretrained("small"),
        speech_bank(40, "test_voices", seed=9),
    )
    rate = count_errors(
        transcribe_all(model.transcribe, [item["wav"] for item in clips]), clips.phonemes
    )["rate"]
    assert rate < 1.5 * stated["test_voices"]["rate"] + 0.02
