"""Encoding and the latent cache: pure sources, the same bytes for any number of processes and
after any accident, refusals, manifests.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from talker_t2av.cli import COMMANDS, main
from talker_t2av.codecs.audio.semantic import speak_invented
from talker_t2av.common.media import data_dir
from talker_t2av.training import latents as module
from talker_t2av.training.latents import (
    CodecNames,
    ManifestSource,
    RawClip,
    TextSource,
    WorldSource,
    build_latents,
    decode_clip,
    encode_clip,
    estimate,
    is_whole,
    join_latents,
    load_codecs,
    load_latents,
    pack_clips,
    quick_latents,
    read_texts,
    shard_path,
    unpack_clips,
)
from talker_t2av.world.build import build_corpus
from talker_t2av.world.dataset import BadClip
from talker_t2av.world.sentences import is_held_out, sentence_words, split_of_sentence
from talker_t2av.world.voice.voices import UNSTEADY

NAMES = CodecNames("pca", "track")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "SHARD", 4)


@pytest.fixture
def source():
    return WorldSource(9, "train", first=100)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_clip_does_not_depend_on_what_was_made_before(source):
    first = [source.clip(i, "track") for i in range(4)]
    for i in (3, 0, 2):
        again = source.clip(i, "track")
        assert (
            (again.wav == first[i].wav).all()
            and again.text == first[i].text
            and again.words == first[i].words
        )
    assert {bool(WorldSource(40).clip(i, "track").face) for i in range(8)} == {True, False}
    assert not any(speak_invented(i, "train").voice.split()[0] in UNSTEADY for i in range(5))


def test_shares_change_clips_one_way_only():
    kinds = [
        [bool(WorldSource(12, sound_only=share).clip(i, "track").face) for i in range(12)]
        for share in (0.0, 0.4, 1.0)
    ]
    assert all(kinds[0]) and not any(kinds[2])
    assert all(before or not after for before, after in zip(kinds[0], kinds[1]))


def test_only_the_training_split_has_invented_voices():
    assert not any(
        " " in WorldSource(12, "validation", sound_only=1.0, invented=1.0).clip(i, "track").voice
        for i in range(6)
    )
    assert all(
        " " in WorldSource(12, "train", sound_only=1.0, invented=1.0).clip(i, "track").voice
        for i in range(6)
    )


def test_a_killed_build_goes_on_to_the_same_bytes(tmp_path, source, monkeypatch):
    whole = contents(build_latents(tmp_path / "whole", source, NAMES, workers=1))
    make, made = module.write_shard, []

    def dying(task):
        if made:
            raise KeyboardInterrupt
        made.append(make(task))

    monkeypatch.setattr(module, "write_shard", dying)
    with pytest.raises(KeyboardInterrupt):
        build_latents(tmp_path / "killed", source, NAMES, workers=1)
    monkeypatch.setattr(module, "write_shard", make)
    with pytest.raises(FileNotFoundError, match="not finished"):
        load_latents(tmp_path / "killed")
    shard = shard_path(tmp_path / "killed", 0)
    shard.write_bytes(shard.read_bytes()[:-100])
    assert not is_whole(shard)
    (tmp_path / "killed" / ".shard-00001-a1b2c3d4.safetensors").write_text("x")
    assert contents(build_latents(tmp_path / "killed", source, NAMES, workers=1)) == whole
    assert len(load_latents(tmp_path / "killed")) == 9


def test_loaded_equals_encoded(tmp_path, source):
    found, quick = (
        load_latents(build_latents(tmp_path / "a", source, NAMES, workers=1)),
        quick_latents(source, NAMES),
    )
    assert (
        found.records == quick.records
        and found.sizes == quick.sizes
        and found.fingerprint == quick.fingerprint
    )
    codecs = load_codecs(NAMES)
    for i in range(len(source)):
        tensors, record = encode_clip(codecs, source.clip(i, "track"))
        assert torch.equal(found[i].latents["audio"], tensors["audio"].float()) and torch.equal(
            found[i].conditions["audio"], tensors["speaker"]
        )
        assert (found[i].latents.get("motion") is None) == (record["face"] == "") and found[
            i
        ].text == record["text"]
        if found[i].latents.get("motion") is not None:
            assert torch.equal(found[i].latents.get("motion"), tensors["motion"].float())
    assert len(decode_clip(codecs, found[0].latents["audio"])[0]) == 960 * found.lengths[0]


def test_refusals(tmp_path, source):
    folder = build_latents(tmp_path / "a", source, NAMES, workers=1)
    for other in (
        replace(source, sound_only=0.1),
        replace(source, n_clips=10),
        replace(source, first=0),
    ):
        with pytest.raises(ValueError, match="other latents"):
            build_latents(folder, other, NAMES, workers=1)
    with pytest.raises(ValueError, match="not empty"):
        build_latents(tmp_path, source, NAMES, workers=1)
    with pytest.raises(FileNotFoundError, match="latents"):
        load_latents(tmp_path / "nothing")
    shard = shard_path(folder, 1)
    data = bytearray(shard.read_bytes())
    data[-9] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match="shard-00001.*damaged"):
        load_latents(folder)
    shard.unlink()
    with pytest.raises(ValueError, match="missing"):
        load_latents(folder)
    with pytest.raises(ValueError, match="no shard"):
        unpack_clips(b"no safetensors here, only text", "a file")


def test_other_codec_weights_are_refused(tmp_path, source):
    folder = build_latents(tmp_path / "a", source, NAMES, workers=1)
    noted = json.loads((folder / "build.json").read_text())
    (folder / "build.json").write_text(json.dumps(noted | {"codec.audio": "0" * 64}))
    with pytest.raises(ValueError, match="codec.audio"):
        build_latents(folder, source, NAMES, workers=1)


def test_manifest_clips_enter_through_the_same_door(tmp_path):
    build_corpus(
        tmp_path / "corpus", 6, split="train", size=32, tts_share=0.5, workers=1, video=False
    )
    rows = ManifestSource(tmp_path / "corpus" / "manifest.csv", "train")
    found = load_latents(build_latents(tmp_path / "latents", rows, NAMES, workers=1))
    assert [r["text"] for r in found.records] == [row.text for row in rows.rows]
    assert found.has_motion.tolist() == [row.motion is not None for row in rows.rows]


def test_bad_rows_are_left_out_and_noted(tmp_path):
    build_corpus(tmp_path / "corpus", 4, split="train", size=32, workers=1, video=False)
    rows = ManifestSource(tmp_path / "corpus" / "manifest.csv", "train")
    rows.rows[1].wav.write_bytes(b"not a sound any more")
    found = load_latents(build_latents(tmp_path / "latents", rows, NAMES, workers=1))
    index = json.loads((tmp_path / "latents" / "index.json").read_text())
    assert len(found) == 3 and [bad[0] for bad in index["bad"]] == [rows.rows[1].sample_id]


def test_what_a_codec_refuses_is_named():
    silent = RawClip("a-clip", "nothing", np.zeros(9600, np.float32), None, "ada", "")
    with pytest.raises(ValueError, match="a-clip"):
        encode_clip(load_codecs(NAMES), silent)
    for wrong in ({"split": "nowhere"}, {"n_clips": 0}, {"sound_only": 1.5}):
        with pytest.raises(ValueError):
            WorldSource(**{"n_clips": 4} | wrong)
    with pytest.raises(FileNotFoundError):
        load_codecs(CodecNames("/no/such/codec", "track"))


def test_estimate_and_size(source):
    seconds, size = estimate(source, load_codecs(NAMES), workers=2)
    assert seconds > 0 and size > 0
    codecs = load_codecs(NAMES)
    clips = [encode_clip(codecs, source.clip(i, "track")) for i in range(2)]
    assert pack_clips(clips) == pack_clips(clips)


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(
        COMMANDS, "latents", ("talker_t2av.training.latents:latents_command", "encode clips")
    )
    words = (
        f"latents --out {tmp_path / 'l'} --clips 5 --validation 4 --audio-codec pca "
        "--motion-codec track --workers 1"
    ).split()
    assert main(words) == 0 and "5 clips" in capsys.readouterr().out
    assert main(words[:4] + ["6"] + words[5:]) == 2
    assert "other latents" in capsys.readouterr().err
    (tmp_path / "mine.txt").write_text(
        "".join(
            f"There are {a} {b}.\n"
            for a in ("red", "old", "big", "new", "small", "good", "cold", "dark", "long", "wet")
            for b in ("cups", "books", "boats", "hats", "doors", "cars")
        ),
        encoding="utf-8",
    )
    again = (
        f"latents --out {tmp_path / 't'} --texts {tmp_path / 'mine.txt'} --clips 5 --validation 2 "
        "--audio-codec pca --motion-codec track --workers 1"
    ).split()
    assert main(again) == 0 and not load_latents(tmp_path / "t" / "train").has_motion.any()


# --- sentences of one's own


def test_given_sentences_are_said_by_voices_of_the_world(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(
        "# a comment\n\nHello, I am here.\nIt rains.\n"
        + "\n".join(
            f"This is sentence {word}."
            for word in "one two three four five six seven eight nine ten".split()
        )
        + "\n",
        encoding="utf-8",
    )
    sentences = tuple(read_texts(path))
    assert len(sentences) == 12 and sentences[0] == "Hello, I am here."
    many = tuple(
        f"It is {a} {b}."
        for a in ("red", "old", "big", "new", "cold", "warm", "good", "fine", "dark", "soft")
        for b in ("tea", "ink", "sand", "milk", "wool", "rice", "wood", "salt", "clay", "gold")
    )
    own = {split: TextSource(many, 6, split).own for split in ("train", "validation", "test")}
    assert all(own.values()), "more sentences are needed"
    assert all(split_of_sentence(text) == split for split in own for text in own[split])
    assert not set(own["train"]) & {*own["validation"], *own["test"]}
    assert 0.4 * len(many) < len(own["train"]) < 0.95 * len(many)
    train = TextSource(many, 6)
    clips = [TextSource(many, 6).clip(i) for i in range(6)]
    assert [raw.text for raw in clips] == train.own[:6] and all(
        raw.motion_input is None and raw.face == "" and raw.phonemes for raw in clips
    )
    assert (
        len({raw.voice for raw in clips}) > 2
        and (clips[3].wav == TextSource(many, 6).clip(3).wav).all()
    )
    # all have been said: from the beginning, by another voice
    assert TextSource(many, 6, first=len(train.own)).clip(0).text == train.own[0]


def test_sentences_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_texts(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match="holds no sentence"):
        read_texts(tmp_path / "empty.txt")
    (tmp_path / "sound.txt").write_bytes(b"\xff\xfe\x00\x80" * 9)
    with pytest.raises(ValueError, match="UTF-8"):
        read_texts(tmp_path / "sound.txt")
    for wrong in ({"split": "testing"}, {"n_clips": 0}, {"invented": 2.0}, {"neural": -0.1}):
        with pytest.raises(ValueError):
            TextSource(**({"sentences": ("Hello.",), "n_clips": 2} | wrong))
    with pytest.raises(ValueError, match="none of the 1 sentences"):
        TextSource(("Hello there.",), 2, "validation")
    foreign = TextSource(("Это предложение.", "Come in."), 4)
    assert set(foreign.own) == {"Это предложение.", "Come in."}
    assert [isinstance(foreign.clip(i), BadClip) for i in range(2)] == [True, False]


def test_sets_are_joined(source, tmp_path):
    texts = TextSource(
        tuple(f"It is {word} again." for word in "cold late dark early quiet".split()), 3
    )
    a, b = quick_latents(source), quick_latents(texts)
    both = join_latents([a, b])
    assert len(both) == len(a) + 3 and both.seconds == pytest.approx(a.seconds + b.seconds)
    for i in range(3):
        torch.testing.assert_close(both[len(a) + i].latents["audio"], b[i].latents["audio"])
        assert "motion" not in both[len(a) + i].latents and both.records[len(a) + i] == b.records[i]
    assert join_latents([a]) is a
    b.fingerprint = b.fingerprint | {"audio": "other"}
    with pytest.raises(ValueError, match="different codecs"):
        join_latents([a, b])


def test_the_shipped_sentences_leave_unseen_words_unseen():
    sentences = [
        text
        for name in ("everyday", "prose")
        for text in read_texts(data_dir() / "texts" / f"{name}.txt")
    ]
    assert len(sentences) > 2500 and len(set(sentences)) > 0.99 * len(sentences)
    assert not any(is_held_out(word) for text in sentences for word in sentence_words(text))
