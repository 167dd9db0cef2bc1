"""The authors' release, from its files to films: names from the manifests, random weights."""

import argparse
import builtins
import hashlib
import json
import os
import pickle
import shutil
import signal
import sys
import types
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from released_files import entries_of, one_process, tensors_of, write_release
from safetensors.torch import load_file, save_file

from talker_t2av.cli import main
from talker_t2av.common.files import read_label, read_square
from talker_t2av.common.media import read_audio, write_audio
from talker_t2av.inference.pipeline import RELEASE, TalkerPipeline
from talker_t2av.inference.streaming import join
from talker_t2av.inference.text_normalization import split_sentences
from talker_t2av.model.config import to_released
from talker_t2av.released import checkpoints
from talker_t2av.released.checkpoints import StandIn, kind_of_file, read_checkpoint, tensors_only
from talker_t2av.released.convert import (
    PROVENANCE,
    convert_file,
    convert_release,
    convert_talker,
    motion_config_of,
)

FAST = {"num_steps": 2, "stop_threshold": 1.0}
PHOTO = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("release"))


def words_of(release: dict, out: Path) -> list[str]:
    words = ["convert", release["talker"].parent, "-o", out, "--accept-licence"]
    words += ["--audio-codec", release["audio_codec"], "--motion-codec", release["motion_codec"]]
    return [str(word) for word in [*words, "--speaker", release["speaker"]]]


@pytest.fixture(scope="module")
def folder(release, tmp_path_factory):
    """The converted model, made by the command."""
    out = tmp_path_factory.mktemp("converted") / "model"
    assert main(words_of(release, out)) == 0
    return out


@pytest.fixture(scope="module")
def pipe(folder):
    return TalkerPipeline.from_pretrained(folder)


def test_the_small_release_has_the_released_names(release):
    """Its names are names of the manifests, and every kind of name is there."""
    for part in release:
        known = {name for name, _, _ in entries_of(part)}
        small = set(tensors_of(part))
        assert small and small <= known

        def kinds(names):
            return {"".join(char for char in name if not char.isdigit()) for name in names}

        assert kinds(small) == kinds(known), part


def test_full_size_configurations_are_read_off_the_manifests():
    """Nothing is allocated: shapes alone."""
    from talker_t2av.codecs.motion.codec import MOTION_PRESETS
    from talker_t2av.model.config import PRESETS
    from talker_t2av.released.convert import talker_config

    shapes = {part: {n: s for n, s, _ in entries_of(part)} for part in ("talker", "motion_codec")}
    assert talker_config(shapes["talker"]) == PRESETS["paper"]
    assert motion_config_of(shapes["motion_codec"]) == MOTION_PRESETS["paper"]


def test_every_number_arrives(release, pipe):
    stored = load_file(release["talker"])
    for name, value in pipe.talker.state_dict().items():
        assert torch.equal(value, stored[to_released(name)].float()), name
    motion = torch.load(release["motion_codec"])
    network = pipe.motion_codec.network
    assert torch.equal(network.dictionary.weight, motion["dec.direction.weight"])
    assert torch.equal(network.to_code.bias, motion["enc.enc_r2t.0.bias"])
    speaker = torch.load(release["speaker"])["model"]
    stored = [name for name in pipe.speaker_encoder.state_dict() if name.endswith("embed.weight")]
    ours = pipe.speaker_encoder.state_dict()[stored[-1]]
    assert torch.equal(ours, speaker["linear.weight"])


def test_the_folder_says_where_it_comes_from(release, folder):
    notes = json.loads((folder / PROVENANCE).read_text())["parts"]
    assert [notes[part]["licence"] for part in notes] == [
        "Apache-2.0",
        "Apache-2.0",
        "non-commercial research only",
        "CC BY-SA 3.0",
    ]
    digest = hashlib.sha256(release["motion_codec"].read_bytes()).hexdigest()
    assert notes["motion_codec"]["files"] == {"lia-x.pt": digest}
    assert notes["audio_codec"]["stand_ins"] == ["argparse.Namespace"]
    assert not list(folder.parent.glob(".*")), "something was left behind"
    assert str(folder.parent) not in json.dumps(notes)


def test_all_modes(pipe):
    """Say, speak, drive, dub, continue, several at once, and a stream."""
    both = pipe("Hello.", face=PHOTO, voice="ada", **FAST)
    assert both.frames.shape == (len(both.audio) // 960, 32, 32, 3)
    assert np.abs(both.audio).max() > 0 and both.frames.std() > 0
    sound = pipe("Hello.", face=None, **FAST)
    assert sound.frames is None and len(sound.audio)
    wav = np.sin(np.arange(24_000) / 20).astype(np.float32)
    driven = pipe("Hello.", audio=wav, face=PHOTO, **FAST)
    assert len(driven.frames) == len(driven.audio) // 960 == 28
    frames = np.stack([PHOTO] * 8)
    dubbed = pipe("Hello.", video=frames, voice=wav, **FAST)
    assert len(dubbed.audio) == 8 * 960 and dubbed.report["mode"] == "V2A"
    longer = pipe("And then?", start=dubbed, **FAST)
    assert longer.seconds > dubbed.seconds
    two = pipe(["One.", "Two."], face=[PHOTO, 3], seed=[0, 1], num_steps=2)
    assert [clip.text for clip in two] == ["One.", "Two."]
    chunks = list(pipe.stream("Hello.", face=PHOTO, voice="ada", **FAST))
    assert len(chunks) > 2
    whole = join(chunks)
    np.testing.assert_allclose(whole.audio, both.audio, atol=1e-3)
    assert np.abs(whole.frames.astype(int) - both.frames.astype(int)).max() <= 2


def test_texts_are_read_as_they_are_written(pipe):
    """The released talker was taught raw transcripts, Chinese ones, too."""
    plan = pipe.plan("你好,3 个人。")
    assert plan.report["text"] == plan.request.text == "你好,3 个人。"
    assert not plan.left_out
    assert split_sentences("你好。早上好！3.5 Euro? Ja") == [
        "你好。",
        "早上好！",
        "3.5 Euro?",
        "Ja.",
    ]
    spoken = "It is 'so.' Then, it was. Is it? No!"
    assert split_sentences(spoken) == ["It is 'so.", "' Then, it was.", "Is it?", "No!"]


def test_commands(folder, tmp_path, capsys):
    """`say`, `drive` and `dub` write valid files that say that they are synthetic."""
    Image.fromarray(PHOTO).save(tmp_path / "picture.png")
    wav = np.sin(np.arange(24_000) / 20).astype(np.float32)
    write_audio(tmp_path / "voice.wav", wav)
    common = ["--model", str(folder), "--num-steps", "2"]
    say, drive, dub = (str(tmp_path / f"{name}.mp4") for name in ("say", "drive", "dub"))
    face = ["--face", str(tmp_path / "picture.png")]
    voice = ["--voice", str(tmp_path / "voice.wav")]
    assert main(["say", "你好。", *face, *voice, "-o", say, *common]) == 0
    assert main(["drive", str(tmp_path / "voice.wav"), *face, "-o", drive, *common]) == 0
    assert main(["dub", drive, "Hello.", *voice, "-o", dub, *common]) == 0
    for path in (say, drive, dub):
        assert read_label(path)["synthetic"] is True
        assert read_square(path, 32, 100).shape[1:] == (32, 32, 3)
    assert len(read_square(drive, 32, 100)) == 28
    speak = str(tmp_path / "speak.wav")
    assert main(["speak", "Hello.", *voice, "-o", speak, *common]) == 0
    assert len(read_audio(speak)) > 0
    capsys.readouterr()


@pytest.fixture
def hub(monkeypatch, release, tmp_path):
    """The Hub holds the released talker, and nothing else; conversions go into an empty folder."""
    talker = str(release["talker"].parent)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **how: talker)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path


def test_the_release_by_its_name(hub, release, folder, capsys):
    """First a message that says everything; after the conversion it loads."""
    with pytest.raises(ValueError, match="converted once") as caught:
        TalkerPipeline.from_pretrained(RELEASE)
    said = str(caught.value)
    for needed in (
        "LIA-X",
        "github.com/wyhsirius/LIA-X",
        "non-commercial",
        "CC BY-SA 3.0",
        "WhisperX-VAE",
        f"talker-t2av convert {RELEASE} --audio-codec FILE --motion-codec FILE --speaker FILE",
    ):
        assert needed in said
    assert main(["say", "Hello.", "--model", RELEASE]) == 2
    assert "talker-t2av convert" in capsys.readouterr().err
    home = hub / "home" / "talker_t2av" / "HKUSTAudio--Talker-T2AV"
    shutil.copytree(folder, home)
    assert TalkerPipeline.from_pretrained(RELEASE).talker.config.hidden_size == 64


@pytest.fixture
def in_one_process():
    """What the second process does is done in this one, which is much faster."""
    with one_process():
        yield


def test_the_default_output_is_where_the_name_looks(hub, release, in_one_process):
    words = words_of(release, hub)
    at = words.index("-o")
    assert main(words[:at] + words[at + 2 :]) == 0
    assert TalkerPipeline.from_pretrained(RELEASE).name == RELEASE


def refused(release: dict, tmp_path: Path, **changes) -> str:
    """What the conversion says; it must leave nothing behind."""
    files = {name: release[name] for name in ("audio_codec", "motion_codec", "speaker")}
    options = {"talker": release["talker"].parent, "licence_accepted": True} | changes
    out = tmp_path / "new" / "model"
    with pytest.raises((ValueError, OSError)) as caught:
        convert_release(**(files | options), out=out)
    assert not out.exists() and not list(out.parent.glob("*")) + list(out.parent.glob(".*"))
    said = str(caught.value)
    assert "\n" not in said and len(said) < 700
    return said


def test_the_licence_is_asked_for(release, tmp_path, monkeypatch):
    said = refused(release, tmp_path, licence_accepted=False)
    assert "non-commercial" in said and "--accept-licence" in said


def test_the_licence_can_be_accepted_at_the_keyboard(monkeypatch, capsys):
    from talker_t2av.released.convert import accept_licence

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "y")
    accept_licence(False)
    assert capsys.readouterr().err.count("non-commercial") == 1
    monkeypatch.setattr("builtins.input", lambda question: "")
    with pytest.raises(ValueError, match="--accept-licence"):
        accept_licence(False)


def test_weights_that_do_not_fit_are_named(release, tmp_path):
    """Missing, unknown, of another shape, of another type, not finite; and the wrong file."""

    def said(part: str, change) -> str:
        tensors = tensors_of(part)
        change(tensors)
        path = tmp_path / f"{part}.safetensors"
        save_file(tensors, path)
        name = "speaker_encoder" if part == "speaker" else part
        with pytest.raises(ValueError, match=f"^{path}: ") as caught:
            convert_file(name, path, tmp_path / "out")
        assert not (tmp_path / "out").exists() and "\n" not in str(caught.value)
        return str(caught.value)

    bias = "enc.enc_r2t.0.bias"
    motion, speaker = "motion_codec", "speaker"
    assert "is missing" in said(motion, lambda t: t.pop("dec.direction.weight"))
    assert "enc.enc_r2t.0.weight is missing" in said(motion, lambda t: t.pop(bias[:-4] + "weight"))
    assert "dec.more" in said(motion, lambda t: t.update({"dec.more": torch.zeros(1)}))
    assert "linear" in said(speaker, lambda t: t.update({"linear.bias": torch.zeros(7)}))
    assert "int32" in said(motion, lambda t: t.update({bias: torch.zeros(40).int()}))
    assert "NaN" in said(motion, lambda t: t[bias].fill_(torch.nan))
    with pytest.raises(ValueError, match="begins with enc."):
        convert_file(motion, release["talker"], tmp_path / "out")
    assert "vae.out_proj.weight_v is missing" in said(
        "audio_codec", lambda t: t.pop("vae.out_proj.weight_v")
    )


def test_a_talker_that_does_not_fit_is_named(release, tmp_path):
    def said(change) -> str:
        tensors = tensors_of("talker")
        change(tensors)
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(ValueError) as caught:
            convert_talker(tmp_path, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    norm = "llm.model.norm.weight"
    assert "norm.weight is missing" in said(lambda t: t.pop(norm))
    assert "embed_tokens.weight is missing" in said(
        lambda t: t.pop("llm.model.embed_tokens.weight")
    )
    assert "norm.weight has shape (3,)" in said(lambda t: t.update({norm: torch.ones(3)}))
    assert "I64" in said(lambda t: t.update({norm: torch.ones(64, dtype=torch.int64)}))
    assert "NaN" in said(lambda t: t[norm].fill_(torch.inf))
    assert "belongs to no part" in said(lambda t: t.update(odd=torch.ones(3)))


def test_shapes_are_compared_before_any_memory_is_taken(tmp_path, monkeypatch):
    """A small file that names a large network does not get one."""
    wide = {  # part -> a tensor that a width is read off
        "audio_codec": ("CodecEnc.block.0.bias", torch.zeros(4096)),
        "motion_codec": ("enc.enc_2r.block1.0.weight", torch.zeros(300_000, 0, 1, 1)),
        "speaker": ("conv.bias", torch.zeros(100_000)),
    }

    def no_memory(module, *args, **kwargs):
        raise AssertionError("memory was asked for")

    monkeypatch.setattr(torch.nn.Module, "to_empty", no_memory)
    for part, (name, value) in wide.items():
        path = tmp_path / f"{part}.safetensors"
        save_file(tensors_of(part) | {name: value}, path)
        with pytest.raises(ValueError, match=f"^{path}: .*these weights do not fit"):
            convert_file("speaker_encoder" if part == "speaker" else part, path, tmp_path / "out")


BLOCKS = {  # part -> beginning of the names of its blocks
    "audio_codec": "semantic_model.encoder.blocks.",
    "motion_codec": "dec.conv3_2.",
    "speaker": "feature_extract.model.encoder.layers.",
}
SIZES = {  # part -> tensors that sizes are read off, each of which can have a wrong shape
    "audio_codec": (
        "semantic_model.encoder.conv1.weight",
        "semantic_model.encoder.positional_embedding",
        "vae.out_proj.weight_v",
        "CodecEnc.block.0.bias",
        "CodecEnc.block.1.block.4.weight_v",
    ),
    "motion_codec": ("enc.enc_r2t.0.weight", "enc.enc_2r.block1.0.weight"),
    "speaker": (
        "linear.bias",
        "feature_extract.model.post_extract_proj.weight",
        "feature_extract.model.encoder.layers.0.self_attn.relative_attention_bias.weight",
    ),
}


@pytest.mark.parametrize("part", BLOCKS)
def test_sizes_that_cannot_be_are_one_line(part, tmp_path):
    """A thousand empty blocks; a tensor without axes, and one without numbers."""
    name = "speaker_encoder" if part == "speaker" else part
    path = tmp_path / "weights.safetensors"
    changes = [{f"{BLOCKS[part]}{i}.x": torch.zeros(0) for i in range(1000)}]
    for tensor in SIZES[part]:
        shape = tensors_of(part)[tensor].shape
        changes += [{tensor: torch.zeros(())}, {tensor: torch.zeros(3)}]
        changes += [{tensor: torch.zeros(0, *shape[1:])}]
    for change in changes:
        save_file(tensors_of(part) | change, path)
        with pytest.raises(ValueError, match=f"^{path}: ") as caught:
            convert_file(name, path, tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert "1,000 blocks" in str(caught.value) or len(change) == 1
        assert not (tmp_path / "out").exists()


TALKER_SIZES = {
    "llm.model.embed_tokens.weight": (0, 64),
    "llm.model.layers.0.self_attn.q_norm.weight": (0,),
    "llm.model.layers.0.self_attn.k_proj.weight": (0, 64),
    "llm.model.layers.0.mlp.gate_proj.weight": (),
    "speech_patch_encoder.rope.w": (1024, 0, 2),
    "projector_speech.linear1.weight": (7,),
    "llm.model.norm.weight.row_scale": (3, 7),
}


@pytest.mark.parametrize("tensor", TALKER_SIZES)
def test_sizes_of_a_talker_that_cannot_be_are_one_line(tensor, tmp_path):
    tensors = tensors_of("talker")
    tensors[tensor] = torch.zeros(TALKER_SIZES[tensor])
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=str(tmp_path)) as caught:
        convert_talker(tmp_path, tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_many_blocks_of_a_talker_are_refused(tmp_path):
    tensors = tensors_of("talker") | {f"llm.model.layers.{i}.x": torch.zeros(0) for i in range(500)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="500 blocks llm.model.layers"):
        convert_talker(tmp_path, tmp_path / "out")


def test_parts_that_do_not_fit_together_are_refused(release, tmp_path, in_one_process):
    """A folder that the pipeline would not load is not written."""
    speaker = tensors_of("speaker")
    width = speaker["linear.weight"].shape[1]
    speaker |= {"linear.weight": torch.zeros(192, width), "linear.bias": torch.zeros(192)}
    save_file(speaker, tmp_path / "speaker.safetensors")
    said = refused(release, tmp_path, speaker=tmp_path / "speaker.safetensors")
    assert "speaker vectors of size" in said and "got 192" in said


@pytest.mark.parametrize("token", [-100_000, 10**12])
def test_tokens_have_ids_that_can_be(release, tmp_path, token):
    content = json.loads((release["talker"].parent / "tokenizer.json").read_text())
    content["added_tokens"][1]["id"] = token
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert f"the id {token}" in refused(release, tmp_path, tokenizer=tmp_path / "tokenizer.json")


def test_a_tokenizer_of_brackets(release, tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"a":' + "[" * 200_000)
    said = refused(release, tmp_path, tokenizer=tmp_path / "tokenizer.json")
    assert "tokenizer.json is no JSON" in said


def test_a_talker_that_is_no_file(release, tmp_path):
    """A broken file, and a folder with the name of one, in a folder with a tokenizer."""
    shutil.copy(release["talker"].parent / "tokenizer.json", tmp_path)
    (tmp_path / "model.safetensors").mkdir()
    assert "holds no .safetensors file" in refused(release, tmp_path, talker=tmp_path)
    (tmp_path / "model.safetensors").rmdir()
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    said = refused(release, tmp_path, talker=tmp_path)
    assert said.startswith(f"{tmp_path / 'model.safetensors'}: is no safetensors file")
    with pytest.raises(ValueError, match="model.safetensors: is no safetensors file"):
        TalkerPipeline.from_pretrained(tmp_path)


def test_nothing_is_downloaded_in_vain(release, tmp_path, monkeypatch):
    """What is wrong at home is said before the Hub is asked."""

    def no_hub(*args, **kwargs):
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_hub)
    assert "--accept-licence" in refused(release, tmp_path, talker=RELEASE, licence_accepted=False)
    none = tmp_path / "none"
    assert "--speaker: no file" in refused(release, tmp_path, talker=RELEASE, speaker=none)
    assert "tokenizer: no file" in refused(release, tmp_path, talker=RELEASE, tokenizer=none)


def test_no_file_steers_the_terminal(release, tmp_path, capsys, in_one_process):
    """Names of entries, of functions and of tensors are shown without control characters."""
    bad = "\x1b[2J\x1b]0;owned\x07"
    entry, function, tensor = (tmp_path / f"{i}.pt" for i in range(3))
    write_zip(entry, {f"a{bad}/data.pkl": bytes(10**4)}, zipfile.ZIP_DEFLATED)
    program = f"\x80\x02cos{bad}\nsystem\n.".encode("latin-1")
    write_zip(function, {"a/data.pkl": program, "a/version": b"3\n", "a/byteorder": b"little"})
    save_file({f"enc.{bad}": torch.zeros(1)}, tensor)
    for path in (entry, function, tensor):
        words = words_of(release, tmp_path / "out")
        words[words.index("--motion-codec") + 1] = str(path)
        capsys.readouterr()
        assert main(words) == 2
        said = capsys.readouterr().err
        assert all(char.isprintable() for char in said.replace("\n", "")) and path.name in said


def test_what_can_be_seen_before_any_work(release, tmp_path):
    assert "exists already" in refused_output(release, tmp_path)
    (tmp_path / "empty").mkdir()
    assert "tokenizer.json" in refused(release, tmp_path, talker=tmp_path / "empty")
    assert "--speaker: no file" in refused(release, tmp_path, speaker=tmp_path / "none.pth")


def refused_output(release: dict, tmp_path: Path) -> str:
    files = {name: release[name] for name in ("audio_codec", "motion_codec", "speaker")}
    with pytest.raises(ValueError) as caught:
        convert_release(**files, talker=release["talker"].parent, out=tmp_path)
    return str(caught.value)


class RunsACommand:
    def __reduce__(self):
        return os.system, ("touch visited",)


class OfMine:
    pass


def write_zip(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def write_safetensors(path: Path, header: dict | bytes, content: bytes) -> None:
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content)


def hostile(name: str, path: Path) -> None:
    """Write one broken or hostile file."""
    good = {"w": torch.ones(4, 4)}
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    match name:
        case "folder":
            path.mkdir()
        case "empty":
            path.touch()
        case "a web page":
            path.write_text("<!doctype html><title>404</title>")
        case "cut off":
            torch.save(good, path)
            path.write_bytes(path.read_bytes()[:-200])
        case "runs a command":
            torch.save(good | {"x": RunsACommand()}, path)
        case "runs a command, old format":
            torch.save(good | {"x": RunsACommand()}, path, _use_new_zipfile_serialization=False)
        case "plain pickle that runs a command":
            path.write_bytes(pickle.dumps(RunsACommand()))
        case "unknown class":
            torch.save(good | {"x": OfMine()}, path)
        case "compressed":
            write_zip(path, {"a/data.pkl": bytes(10**7)}, zipfile.ZIP_DEFLATED)
        case "leads out of the archive":
            write_zip(path, {"a/data.pkl": b"", "../../.profile": b"boo"})
        case "zip of something else":
            write_zip(path, {"word/document.xml": b"<a/>"})
        case "one number, huge shape":
            torch.save({"w": torch.zeros(1).expand(10**6, 10**6)}, path)
        case "no tensors":
            torch.save({"w": "a string"}, path)
        case "a list":
            torch.save([torch.ones(2)], path)
        case "whole numbers":
            torch.save({"w": torch.ones(4, dtype=torch.int8)}, path)
        case "header claims more than there is":
            write_safetensors(
                path, {"w": entry | {"shape": [400], "data_offsets": [0, 1600]}}, bytes(16)
            )
        case "header: shape and bytes differ":
            write_safetensors(path, {"w": entry | {"shape": [9]}}, bytes(16))
        case "header: length beyond the file":
            path.write_bytes((2**40).to_bytes(8, "little") + b"{" + bytes(30))
        case "header: no JSON":
            write_safetensors(path, b'{"w": oops}' + b" " * 20, bytes(16))
        case "name leads out of a folder":
            write_safetensors(path, {"w/../../x": entry}, bytes(16))


HOSTILE = {  # kind -> what the one line says
    "folder": "is a folder",
    "empty": "is empty",
    "a web page": "neither a checkpoint",
    "cut off": "is cut off",
    "runs a command": "posix.system|nt.system",
    "runs a command, old format": "posix.system|nt.system",
    "plain pickle that runs a command": "no checkpoint of tensors",
    "unknown class": "OfMine",
    "compressed": "is compressed",
    "leads out of the archive": "leads out of it",
    "zip of something else": "no checkpoint of PyTorch",
    "one number, huge shape": "4,000,000,000,000 bytes",
    "no tensors": "w is no tensor",
    "a list": "holds a list",
    "whole numbers": "int8",
    "header claims more than there is": "cut off",
    "header: shape and bytes differ": "no safetensors file",
    "header: length beyond the file": "no safetensors file",
    "header: no JSON": "no safetensors file",
    "name leads out of a folder": "no name of a weight",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused(kind, tmp_path, monkeypatch, in_one_process):
    """Each in one line that names the file. The test below goes the whole way."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    hostile(kind, path)
    with pytest.raises(ValueError, match=HOSTILE[kind]) as caught:
        read_checkpoint(path, ("w",))
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and "\n" not in said and len(said) < 600
    assert not (tmp_path / "visited").exists(), "a command was run"


@pytest.fixture
def omegaconf(monkeypatch):
    """Settings whose pickle asks for omegaconf.dictconfig.DictConfig, which need not be there."""
    module = types.ModuleType("omegaconf.dictconfig")
    module.DictConfig = type("DictConfig", (), {"__module__": "omegaconf.dictconfig"})
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, "omegaconf.dictconfig", module)
    config = module.DictConfig()
    config.__dict__.update(object_type=dict, ref_type=Any, number=int, content={"a": [1, None]})
    return config


def test_settings_are_left_out_whatever_they_hold(tmp_path, omegaconf, in_one_process):
    """What training programs keep beside the weights does not stop the weights."""
    kinds = {
        "a set": {1, 2},
        "a frozen set": frozenset({"x"}),
        "a complex number": 1 + 2j,
        "a device": torch.device("cpu"),
        "a dictionary with a default": defaultdict(list, {"x": [1]}),
        "a type": dict,
        "a type of numbers": torch.float32,
        "bytes": b"abc\xff",
        "no bytes": b"",
        "changeable bytes": bytearray(b"abc"),
        "a path": Path("/data"),
        "a large number": 2**80,
        "a number of NumPy": np.float64(3),
        "an array of NumPy": np.arange(3),
        "settings of omegaconf": omegaconf,
    }
    for what, value in kinds.items():
        settings = argparse.Namespace(value=value)
        torch.save({"state_dict": {"w": torch.ones(2)}, "settings": settings}, tmp_path / "a.pt")
        tensors, report = read_checkpoint(tmp_path / "a.pt", ("w",), "state_dict")
        assert torch.equal(tensors["w"], torch.ones(2)), what
        assert "argparse.Namespace" in report["stand_ins"], what
        assert not any(name.startswith("builtins.dict") for name in report["stand_ins"]), what


def test_nothing_callable_gets_in():
    """Whatever a pickle can name by an old or a new name, it gets only what is in the lists."""
    from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

    names = {f"{module}.{name}" for module, name in NAME_MAPPING}
    names |= {
        f"{module}.{name}" for module in ("builtins", "__builtin__") for name in vars(builtins)
    }
    names |= {f"{module}.system" for module in (*IMPORT_MAPPING, "os", "posix", "torch", "numpy")}
    names |= {"torch.load", "torch.save", "torch.nn.init", "torch.storage.UntypedStorage"}
    inert = {StandIn, *checkpoints.TENSOR_PARTS.values(), *checkpoints.CONTAINERS.values()}
    for name in names:
        meaning = checkpoints.meaning_of(name)
        assert meaning is None or meaning in inert, name
    for name in ("builtins.eval", "__builtin__.eval", "builtins.getattr", "__builtin__.reduce"):
        assert checkpoints.meaning_of(name) is None


def test_a_safe_name_is_no_way_around_the_list(tmp_path, monkeypatch, in_one_process):
    """A harmless settings object beside a command: the command is still named and not run."""
    monkeypatch.chdir(tmp_path)
    content = {"w": torch.ones(2), "a": argparse.Namespace(a={1}), "b": RunsACommand()}
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="asks for (posix|nt).system, which"):
        read_checkpoint(tmp_path / "a.pt", ("w",))
    assert not (tmp_path / "visited").exists()


def test_tensors_take_no_more_than_the_file_has(tmp_path, in_one_process):
    """Many names for the same numbers; and an old file that claims numbers it does not bring."""
    same = torch.zeros(5000)
    torch.save({f"w{i}": same for i in range(50)}, tmp_path / "same.pt")
    with pytest.raises(ValueError, match="its tensors take 1,000,000 bytes, and the file has"):
        read_checkpoint(tmp_path / "same.pt", ("w",))
    meta = {"w": torch.empty(10**6, 10**6, device="meta")}
    torch.save(meta, tmp_path / "meta.pt")
    with pytest.raises(ValueError, match="meta.pt: w is no plain tensor"):
        read_checkpoint(tmp_path / "meta.pt", ("w",))


def test_reading_ends(tmp_path, monkeypatch):
    """After a time, whatever the process does; with limits that this process can set."""
    torch.save({"w": torch.ones(2)}, tmp_path / "good.pt")
    order = {"path": str(tmp_path / "good.pt"), "to": str(tmp_path / "new.safetensors")}
    monkeypatch.setattr(checkpoints, "BEGIN", "import time; time.sleep(60)")
    with pytest.raises(ValueError, match="good.pt: was not read within 1 seconds"):
        checkpoints.ask_second_process(order, timeout=1)
    memory = checkpoints.in_one_line(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert "more memory than a file of its size needs" in memory


@pytest.mark.skipif(sys.platform == "win32", reason="limits are Unix's")
def test_limits_are_no_higher_than_allowed(monkeypatch):
    import resource

    found = {}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (5, 1000))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: found.update({kind: pair}))
    checkpoints.limit_process(10**12)
    assert len(found) == 4 and all(first <= last <= 1000 for first, last in found.values())
    assert found[resource.RLIMIT_CPU] == (995, 1000)
    assert "processor time" in checkpoints.how_it_ended(-signal.SIGXCPU)


def test_a_zip_archive_of_a_later_version(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "good.pt")
    content = bytearray((tmp_path / "good.pt").read_bytes())
    content[content.rfind(b"PK\x01\x02") + 6] = 99
    (tmp_path / "good.pt").write_bytes(content)
    with pytest.raises(ValueError, match="good.pt: is cut off, or no checkpoint"):
        read_checkpoint(tmp_path / "good.pt", ("w",))


def test_the_whole_way_through_the_second_process(tmp_path, monkeypatch):
    """A command is not run; a file of settings and tensors comes through; no secrets get in."""
    monkeypatch.chdir(tmp_path)
    hostile("runs a command", tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="system, which is neither a tensor nor"):
        read_checkpoint(tmp_path / "bad.pt", ("w",))
    assert not (tmp_path / "visited").exists()
    shared = torch.randn(3, 5)
    content = {"w": shared, "w2": shared, "w3": shared.T, "x": Path("a"), "y": [1, {"z": 2.0}]}
    torch.save({"state_dict": content}, tmp_path / "good.pt")
    tensors, report = read_checkpoint(tmp_path / "good.pt", ("w",), "state_dict")
    assert set(tensors) == {"w", "w2", "w3"}
    assert all(torch.equal(tensors[name], content[name]) for name in tensors)
    assert report["stand_ins"] == ["pathlib.PosixPath"]


def test_a_process_that_dies_is_one_line(tmp_path, monkeypatch):
    torch.save({"w": torch.ones(2)}, tmp_path / "good.pt")
    monkeypatch.setattr(checkpoints, "BEGIN", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ValueError, match=r"good.pt: .* was stopped with signal 9"):
        read_checkpoint(tmp_path / "good.pt", ("w",))


def test_stand_ins_do_nothing(tmp_path):
    """A class that the user adds is swallowed, whatever it is; its tensors' neighbours arrive."""
    path = tmp_path / "mine.pt"
    torch.save({"w": torch.ones(2), "mine": OfMine(), "more": RunsACommand()}, path)
    names = (f"{OfMine.__module__}.OfMine", "posix.system", "nt.system")
    content = torch.load(path, weights_only=False, pickle_module=tensors_only(names))
    assert (content["w"] == 1).all()
    assert type(content["mine"]) is StandIn and type(content["more"]) is StandIn
    thing = StandIn(1, a=2)
    thing["key"] = 1
    thing.append(3)
    assert not vars(thing)


def test_kinds_of_files(tmp_path, release):
    assert kind_of_file(release["talker"]) == "safetensors"
    assert kind_of_file(release["speaker"]) == "archive"
    torch.save({"w": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert kind_of_file(tmp_path / "old.pt") == "old pickle"
    with pytest.raises(FileNotFoundError, match="nothing.pt"):
        kind_of_file(tmp_path / "nothing.pt")
