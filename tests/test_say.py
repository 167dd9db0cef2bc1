"""say, speak, drive and dub as a user meets them, with a tiny pipeline of random weights."""

import json

import numpy as np
import pytest
import soundfile

from talker_t2av import cli
from talker_t2av.common import files
from talker_t2av.common.files import read_label
from talker_t2av.common.media import read_audio, read_video, write_audio, write_video
from talker_t2av.inference.pipeline import TalkerPipeline
from talker_t2av.world.corpus import compose_clip

NAMES = ("say", "speak", "drive", "dub")


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A pipeline on disk, and what people bring along."""
    folder = tmp_path_factory.mktemp("material")
    TalkerPipeline.untrained("tiny").save_pretrained(folder / "model")
    clip = compose_clip("Kindly repeat.", "ada", 7, size=64)
    write_audio(folder / "me.wav", clip.wav)
    write_video(folder / "me.mp4", clip.frames, clip.wav)
    write_video(folder / "mute.mp4", clip.frames[:9])
    tone = 0.1 * np.sin(np.arange(44_100) / 30)
    soundfile.write(folder / "stereo.mp3", np.stack([tone, -0.5 * tone], 1), 44_100, format="MP3")
    write_audio(folder / "silent.wav", np.zeros(48_000, np.float32))
    (folder / "shopping.mp4").write_text("eggs, milk, bread")
    (folder / "shopping.wav").write_text("eggs, milk, bread")
    write_video(folder / "tall.mp4", np.full((4, 3840, 2160, 3), 90, np.uint8), quality=40)
    return folder


@pytest.fixture
def talk(material, tmp_path, monkeypatch, capsys):
    """Run a command in this process: (exit code, standard output, standard error);
    files go to tmp_path.
    """
    for name in NAMES:
        monkeypatch.setitem(
            cli.COMMANDS, name, (f"talker_t2av.inference.commands:{name}_command", name)
        )
    monkeypatch.chdir(tmp_path)

    def run(*words):
        words = [
            str(material / word)
            if len(str(word)) < 50 and (material / str(word)).is_file()
            else str(word)
            for word in words
        ]
        code = cli.main([*words, "--model", str(material / "model"), "--steps", "2"])
        caught = capsys.readouterr()
        return code, caught.out, caught.err

    return run


def test_say_writes_what_it_reports(talk, tmp_path):
    code, out, err = talk("say", "Good morning. Is it 7?", "-o", "a.mp4", "--seed", 3, "--json")
    assert code == 0, err
    report = json.loads(out)
    frames, rate = read_video(tmp_path / "a.mp4")
    assert (
        report["mode"] == "T2AV"
        and report["text"] == "Good morning. Is it seven?"
        and report["sentences"] == 2
    )
    assert (
        rate == 25
        and len(frames) == 4 * report["patches"] == round(25 * report["seconds"])
        and report["first_chunk_seconds"] > 0
    )
    assert read_label(tmp_path / "a.mp4")["seed"] == 3
    assert talk("say", "Good morning. Is it 7?", "-o", "b.mp4", "--seed", 3)[0] == 0
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_the_other_jobs(talk, tmp_path):
    code, _, err = talk("speak", "Hi 🙂", "-o", "a.wav", "--voice", "me.wav")
    assert code == 0 and "🙂" in err and len(read_audio(tmp_path / "a.wav")) % 3840 == 0
    assert talk("drive", "me.wav", "Kindly repeat.", "-o", "b.mp4", "--face", "me.mp4")[0] == 0
    assert talk("drive", "stereo.mp3", "-o", "c.gif", "--face", 12)[0] == 0
    assert talk("dub", "me.mp4", "Other words.", "-o", "d.mp4")[0] == 0
    assert talk("dub", "mute.mp4", "Other words.", "-o", "e.mp4")[0] == 0
    assert len(read_video(tmp_path / "e.mp4")[0]) == 8  # whole patches of the nine frames
    assert talk("say", "Hi.", "--face", "tall.mp4", "-o", "f.mp4")[0] == 0
    given, driven = read_audio(tmp_path / "a.wav"), files.film_sound(tmp_path / "b.mp4")
    assert (
        len(given) and abs(len(driven) / 24_000 - len(read_video(tmp_path / "b.mp4")[0]) / 25) < 0.1
    )
    assert all(read_label(path)["synthetic"] for path in tmp_path.glob("?.*"))


def test_demo_writes_both_films(material, tmp_path, capsys):
    """The talker's film, and beside it the world's own with what the codecs keep."""
    words = [
        "demo",
        "Good morning.",
        "--face",
        "11",
        "--model",
        str(material / "model"),
        "-o",
        str(tmp_path / "a.mp4"),
    ]
    assert cli.main(words) == 0, capsys.readouterr().err
    assert read_label(tmp_path / "a.mp4")["text"] == "Good morning."
    frames, codecs = read_video(tmp_path / "a.mp4")[0], read_video(tmp_path / "a_codecs.mp4")[0]
    assert (
        frames.shape[1] == frames.shape[2]
        and codecs.shape[2] == 4 * frames.shape[2]
        and sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "a_codecs.mp4"]
    )


@pytest.mark.parametrize(
    "words, message",
    [
        (["say", ""], "empty"),
        (["say", "🙂🙂"], "can be spoken"),
        (["say", "Доброе утро"], "cyrillic"),
        (["say", "你好"], "cjk"),
        (["say", "word " * 2000], "5,000"),
        (["say", "Hi.", "-o", "x.avi"], ".mp4"),
        (["speak", "Hi.", "-o", "x.mp4"], "no face"),
        (["say", "Hi.", "--temperature", "9"], "temperature"),
        (["say", "Hi.", "--seed", "-1"], "seed"),
        (["say", "Hi.", "--voice", "adda"], "ada"),
        (["say", "Hi.", "--voice", "none.wav"], "none.wav"),
        (["say", "Hi.", "--voice", "shopping.wav"], "no sound file"),
        (["say", "Hi.", "--face", "shopping.mp4"], "ffmpeg"),
        (["say", "Hi.", "--face", "none.png"], "none.png"),
        (["say", "Hi.", "--face", "me.wav"], "should end in"),
        (["drive", "silent.wav"], "silence"),
        (["drive", "none.wav"], "none.wav"),
        (["drive", "shopping.wav"], "no sound file"),
        (["drive", "shopping.mp4"], "ffmpeg"),
        (["drive", "mute.mp4"], "no sound"),
        (["dub", "shopping.mp4", "Hi."], "ffmpeg"),
        (["dub", "me.wav", "Hi."], "should end in"),
        (["dub", "me.mp4", ""], "empty"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_code_2(talk, tmp_path, words, message):
    code, out, err = talk(*words)
    assert (
        code == 2
        and message in err
        and len(err.strip().splitlines()) == 1
        and not out
        and not list(tmp_path.rglob("*.*"))
    )


def test_missing_weights_say_where_they_were_looked_for(talk, tmp_path, material):
    assert cli.main(["say", "Hi.", "--model", str(tmp_path / "nowhere")]) == 2


def test_full_disk_and_ctrl_c_leave_nothing(talk, tmp_path, monkeypatch):
    start, play = files.VideoWriter._start, TalkerPipeline.play

    def on_a_full_disk(self, *size):
        self.silent = "/dev/full"
        start(self, *size)

    def impatient(self, plan, patches_per_chunk=1):
        for chunk in play(self, plan, 1):
            yield chunk
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files.VideoWriter, "_start", on_a_full_disk)
        code, _, err = talk("say", "Hi.", "-o", "x.mp4")
        assert code == 2 and "cannot write" in err and not list(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(TalkerPipeline, "play", impatient)
        code, _, err = talk("say", "A long story. It never ends.", "-o", "x.mp4")
        assert code == 130 and "interrupted" in err and not list(tmp_path.iterdir())
