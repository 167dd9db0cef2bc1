"""The authors' release, from its files to films: names from the manifests, random weights."""

import hashlib
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from released_files import entries_of, tensors_of, write_release
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
    both = pipe("Good morning.", face=PHOTO, voice="ada", **FAST)
    assert both.frames.shape == (len(both.audio) // 960, 32, 32, 3)
    assert np.abs(both.audio).max() > 0 and both.frames.std() > 0
    sound = pipe("Good morning.", face=None, **FAST)
    assert sound.frames is None and len(sound.audio)
    wav = np.sin(np.arange(24_000) / 20).astype(np.float32)
    driven = pipe("Good morning.", audio=wav, face=PHOTO, **FAST)
    assert len(driven.frames) == len(driven.audio) // 960 == 28
    frames = np.stack([PHOTO] * 8)
    dubbed = pipe("Hello.", video=frames, voice=wav, **FAST)
    assert len(dubbed.audio) == 8 * 960 and dubbed.report["mode"] == "V2A"
    longer = pipe("And then?", start=dubbed, **FAST)
    assert longer.seconds > dubbed.seconds
    two = pipe(["One.", "Two."], face=[PHOTO, 3], seed=[0, 1], num_steps=2)
    assert [clip.text for clip in two] == ["One.", "Two."]
    chunks = list(pipe.stream("Good morning.", face=PHOTO, voice="ada", **FAST))
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
def in_one_process(monkeypatch):
    """What the second process does is done in this one, which is much faster."""

    def here(order: dict) -> dict:
        try:
            return checkpoints.read_here(order)
        except Exception as error:
            raise ValueError(f"{order['path']}: {checkpoints.in_one_line(error)}") from None

    monkeypatch.setattr(checkpoints, "ask_second_process", here)


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
    with pytest.raises(ValueError, match=r"good.pt: the process that read it ended with -9"):
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
