"""say, speak, drive and dub as a user meets them, with a tiny pipeline of random weights."""

import io
import json
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import soundfile
from released_files import one_process, write_release

from talker_t2av import cli
from talker_t2av.common import files
from talker_t2av.common.files import read_label
from talker_t2av.common.media import read_audio, read_video, write_audio, write_video
from talker_t2av.inference.generate import RELEASED_SETTINGS, Settings, default_settings
from talker_t2av.inference.pipeline import TalkerPipeline
from talker_t2av.world.corpus import compose_clip
from talker_t2av.world.voice.voices import neural_voice_names, voice_names


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
    (folder / "story.txt").write_text("\ufeffGood morning.\n\nIs it 7?\n", encoding="utf-8")
    (folder / "foreign.txt").write_text("Hi.\n\nДоброе утро\n", encoding="utf-8")
    (folder / "blank.txt").write_text("\n \n")
    write_video(folder / "tall.mp4", np.full((4, 3840, 2160, 3), 90, np.uint8), quality=40)
    return folder


@pytest.fixture
def talk(material, tmp_path, monkeypatch, capsys):
    """Run a command in this process: (exit code, standard output, standard error);
    files go to tmp_path.
    """
    monkeypatch.chdir(tmp_path)

    def run(*words):
        words = [
            str(material / word)
            if len(str(word)) < 50 and (material / str(word)).is_file()
            else str(word)
            for word in words
        ]
        code = cli.main([*words, "--model", str(material / "model"), "--num-steps", "2"])
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


def test_text_comes_from_a_file_or_from_another_program(talk, tmp_path, monkeypatch):
    code, out, err = talk("speak", "--text-file", "story.txt", "-o", "a.wav", "--json")
    assert code == 0 and json.loads(out)["text"] == "Good morning. Is it seven?", err
    monkeypatch.setattr(sys, "stdin", io.StringIO("Good morning.\n\nIs it 7?\n"))
    assert talk("speak", "-", "-o", "b.wav")[0] == 0
    assert talk("speak", "Good morning. Is it 7?", "-o", "c.wav")[0] == 0
    made = {path.read_bytes() for path in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == 3 and len(made) == 1
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert talk("speak", "-", "-o", "d.wav")[0] == 2
    assert talk("drive", "me.wav", "--text-file", "story.txt", "-o", "e.mp4")[0] == 0
    assert read_label(tmp_path / "e.mp4")["text"] == "Good morning. Is it seven?"


def test_say_tells_what_was_changed_and_what_was_left_out(talk):
    """In words to a reader, in the report to a program; also what nobody can see."""
    text = "Take 5 kg of su\u00adgar 🙂."
    code, _, err = talk("speak", text, "-o", "a.wav")
    assert code == 0 and "said in other words: 5 kg -> five kilograms" in err
    assert "soft hyphen, 🙂 (slightly smiling face)" in err
    code, out, err = talk("speak", text, "-o", "a.wav", "--json")
    report = json.loads(out)
    assert report["text"] == "Take five kilograms of sugar."
    assert report["changes"] == [["5 kg", "five kilograms"]]
    assert report["left_out"] == "soft hyphen, 🙂 (slightly smiling face)"
    code, out, err = talk("speak", "Good morning.", "-o", "b.wav", "--json")
    assert not err and json.loads(out)["changes"] == [] and not json.loads(out)["left_out"]


def test_each_line_becomes_the_clip_that_it_would_be_alone(talk, tmp_path):
    code, out, err = talk("speak", "--lines", "story.txt", "-o", "clips", "--seed", 2, "--json")
    assert code == 0, err
    reports = [json.loads(line) for line in out.splitlines()]
    assert [report["text"] for report in reports] == ["Good morning.", "Is it seven?"]
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["001.wav", "003.wav"]
    assert talk("speak", "Is it 7?", "-o", "alone.wav", "--seed", 2)[0] == 0
    assert (tmp_path / "alone.wav").read_bytes() == (tmp_path / "clips" / "003.wav").read_bytes()
    assert talk("say", "--lines", "story.txt")[0] == 0  # into the default folder
    assert read_label(tmp_path / "out" / "say" / "001.mp4")["text"] == "Good morning."


def test_standard_and_older_names_of_options(talk, tmp_path, capsys):
    """`--num-steps` and `--guidance-scale` are shown; `--steps` and `--guidance` still work."""
    new = talk("speak", "Hi.", "-o", "a.wav", "--num-steps", 3, "--guidance-scale", 1, "--json")
    old = talk("speak", "Hi.", "-o", "b.wav", "--guidance", 1, "--json")
    assert new[0] == old[0] == 0
    assert json.loads(old[1])["guidance_scale"] == json.loads(new[1])["guidance_scale"] == 1
    args = cli.command_parser("say").parse_args(["Hi.", "--steps", "5"])
    assert args.num_steps == 5 and "--steps" not in cli.command_parser("say").format_help()
    assert json.loads(talk("speak", "Hi.", "-o", "c.wav", "--json")[1])["temperature"] == 0.2


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The authors' model, small and with random weights, as a folder that --model takes."""
    release = write_release(tmp_path_factory.mktemp("release"))
    out = tmp_path_factory.mktemp("converted") / "model"
    words = ["convert", release["talker"].parent, "-o", out, "--accept-licence"]
    for part in ("audio_codec", "motion_codec", "speaker"):
        words += [f"--{part.replace('_', '-')}", release[part]]
    with one_process():
        assert cli.main(list(map(str, words))) == 0
    return out


def test_each_model_has_its_own_defaults(talk, released, material, tmp_path, capsys):
    """On the command line and in Python; what is given counts for both models."""
    ours, theirs = Settings(), RELEASED_SETTINGS
    assert default_settings(False) == ours and default_settings(True) == theirs
    assert (theirs.num_steps, theirs.guidance_scale) == (10, 2.0)
    assert theirs.temperature == theirs.motion_temperature == 0.3
    assert (theirs.stop_threshold, theirs.stop_streak, theirs.min_patches) == (0.5, 3, 7)
    pipe = TalkerPipeline.from_pretrained(released)
    assert pipe.plan("Hi.").settings == theirs
    assert pipe.plan("Hi.", temperature=0.7).settings == replace(theirs, temperature=0.7)

    def reported(model, *words):
        words = ["speak", "Good morning.", "-o", str(tmp_path / "a.wav"), "--json", *words]
        assert cli.main([*words, "--num-steps", "2", "--model", str(model)]) == 0
        return json.loads(capsys.readouterr().out)

    for model, own in ((material / "model", ours), (released, theirs)):
        report = reported(model, "--stop-threshold", "0.000001")  # every patch is an alarm
        expected = asdict(replace(own, num_steps=2, stop_threshold=1e-6))
        assert {name: report[name] for name in expected} == expected
        assert report["patches"] == own.min_patches + own.stop_streak - 1
        words = ["--stop-threshold", "0.000001", "--stop-streak", "2", "--min-patches", "4"]
        assert reported(model, *words)["patches"] == 5


def test_help_shows_the_defaults_of_both_models():
    def shown(command):
        return " ".join(cli.command_parser(command).format_help().split())

    assert "(default 0.2; with the authors' model 0.3)" in shown("say")
    assert "(default 1; with the authors' model 0.3)" in shown("say")
    assert "(default 10)" in shown("say")
    for command in ("say", "speak"):
        assert "end a clip (default 1; with the authors' model 3)" in shown(command)
        assert "counts (default 3; with the authors' model 7)" in shown(command)
    for command in ("drive", "dub"):  # these clips end with what is given
        assert "--stop-streak" not in shown(command)


def test_voices_lists_them_with_a_line_each(capsys):
    assert cli.main(["voices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*voice_names(), *neural_voice_names()]
    assert all(len(line.split()) > 5 and len(line) < 100 for line in lines)
    assert cli.main(["voices", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == [*voice_names(), *neural_voice_names()]


def test_a_recording_and_a_film_keep_their_voices(talk, tmp_path):
    """`drive` and `dub` write down that the voice was given, and `dub --voice` takes another."""
    for words, voice in (
        (["drive", "me.wav"], "given"),
        (["dub", "me.mp4", "Other words."], "given"),
        (["dub", "mute.mp4", "Other words."], "ada"),
        (["dub", "me.mp4", "Other words.", "--voice", "ben"], "ben"),
    ):
        code, out, err = talk(*words, "--json", "-o", "a.mp4")
        assert code == 0 and json.loads(out)["voice"] == voice, err


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
        (["say"], "is missing"),
        (["say", ""], "empty"),
        (["say", "Hi.", "--text-file", "story.txt"], "twice"),
        (["say", "--text-file", "none.txt"], "none.txt"),
        (["say", "--text-file", "me.wav"], "UTF-8"),
        (["say", "--lines", "none.txt"], "none.txt"),
        (["say", "Hi.", "--lines", "story.txt"], "takes the place"),
        (["say", "--lines", "story.txt", "-o", "a.mp4"], "should be a folder"),
        (["speak", "--lines", "foreign.txt"], "line 3: text: this talker reads English"),
        (["speak", "--lines", "blank.txt"], "holds no text"),
        (["say", "Hi.", "--device", "cuda:99"], "device: 'cuda:99'"),
        (["dub", "me.mp4"], "is missing"),
        (["say", "🙂🙂"], "can be spoken"),
        (["say", "Доброе утро"], "cyrillic"),
        (["say", "你好"], "cjk"),
        (["say", "word " * 2000], "5,000"),
        (["say", "Hi.", "-o", "x.avi"], ".mp4"),
        (["speak", "Hi.", "-o", "x.mp4"], "no face"),
        (["say", "Hi.", "--temperature", "9"], "say: --temperature: takes"),
        (["say", "Hi.", "--motion-temperature", "9"], "say: --motion-temperature: takes"),
        (["say", "Hi.", "--seed", "-1"], "say: --seed: takes"),
        (["say", "Hi.", "--stop-streak", "0"], "say: --stop-streak: takes"),
        (["speak", "Hi.", "--min-patches", "-1"], "speak: --min-patches: takes"),
        (["say", "Hi.", "--stop-threshold", "0"], "say: --stop-threshold: takes"),
        (["say", "Hi.", "--voice", "adda"], "--voice: there is no 'adda'; near it: ada"),
        (["say", "Hi.", "--voice", "none.wav"], "--voice: no file at none.wav"),
        (["say", "Hi.", "--voice", "shopping.wav"], "no sound file"),
        (["say", "Hi.", "--voice", "mute.mp4"], "say: --voice: "),
        (["say", "Hi.", "--voice", "silent.wav"], "say: --voice: "),
        (["say", "Hi.", "--face", "shopping.mp4"], "ffmpeg"),
        (["say", "Hi.", "--face", "bob"], "say: --face: no file at bob"),
        (["say", "Hi.", "--face", "none.png"], "say: --face: no file at none.png"),
        (["say", "Hi.", "--face", "me.wav"], "say: --face: "),
        (["drive", "silent.wav"], "drive: recording: "),
        (["drive", "none.wav"], "drive: recording: no file at none.wav"),
        (["drive", "shopping.wav"], "no sound file"),
        (["drive", "shopping.mp4"], "ffmpeg"),
        (["drive", "mute.mp4"], "drive: recording: "),
        (["drive", "me.wav", "--face", "shopping.mp4"], "drive: --face: "),
        (["dub", "shopping.mp4", "Hi."], "dub: film: "),
        (["dub", "none.mp4", "Hi."], "dub: film: no file at none.mp4"),
        (["dub", "me.wav", "Hi."], "should end in"),
        (["dub", "me.mp4", "Hi.", "--voice", "bob"], "dub: --voice: there is no 'bob'"),
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
