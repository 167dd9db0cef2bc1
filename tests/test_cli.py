"""The command line as a user meets it: exit codes, one line of error, nothing half-written.

What concerns the start of the program runs in fresh processes, the rest in this one, which has to
import PyTorch only once.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from talker_t2av import cli
from talker_t2av.cli import COMMANDS, GROUPS
from talker_t2av.common.media import read_video

PROGRAM = Path(sys.executable).parent / "talker-t2av"


def run(*words, cwd=None):
    return subprocess.run([PROGRAM, *map(str, words)], capture_output=True, text=True, cwd=cwd)


@pytest.fixture
def here(capsys):
    """Run a command in this process: (exit code, standard output, standard error)."""

    def call(*words):
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
        caught = capsys.readouterr()
        return code, caught.out, caught.err

    return call


def test_help_lists_every_command():
    done = run("--help")
    assert done.returncode == 0 and all(name in done.stdout for name in COMMANDS)


def test_every_command_stands_in_one_group():
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(COMMANDS) and len(set(grouped)) == len(grouped)
    assert all(heading in cli.top_parser().format_help() for heading in GROUPS)


def test_half_of_a_name_says_what_may_follow(here):
    code, _, err = here("train")
    assert code == 2 and "semantic, judge, audio-codec" in err
    assert here()[0] == 2


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_half_of_a_name_has_help(here, flag):
    code, out, err = here("train", flag)
    assert code == 0 and not err and "usage: talker-t2av train" in out
    training = [name for name in COMMANDS if name.startswith("train ")]
    assert len(training) > 5 and all(f"{name} " in out for name in training)
    assert "  say" not in out


def test_help_imports_no_torch():
    """`--help` and errors in the first word answer at once because nothing heavy
    is imported for them.
    """
    code = (
        "import sys; from talker_t2av.cli import main\ntry: main(['--help'])\nexcept SystemExit: "
        "pass\nassert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "words",
    [name.split() for name in COMMANDS] + [["corpus", "build"], ["corpus", "check"]],
    ids=" ".join,
)
def test_every_command_has_help(here, words):
    code, out, _ = here(*words, "--help")
    assert code == 0 and "usage: talker-t2av " + " ".join(words) in out


def test_the_world_says_a_sentence(tmp_path):
    done = run(
        "world", "Lips and sound agree.", "-o", tmp_path / "first.mp4", "--size", 96, "--seed", 4
    )
    assert done.returncode == 0, done.stderr
    frames, rate = read_video(tmp_path / "first.mp4")
    assert (
        done.stdout.strip()
        == f"{tmp_path / 'first.mp4'}: {len(frames) / rate:.1f} s, voice ada, face 7"
    )
    assert (
        rate == 25
        and frames.shape[1:] == (96, 96, 3)
        and len(frames) % 4 == 0
        and frames.std() > 20
    )
    words = ["--size", "96", "--seed", "4", "-o", str(tmp_path / "again.mp4")]
    assert cli.main(["world", "Lips and sound agree.", *words]) == 0  # in another process
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "first.mp4").read_bytes()


@pytest.mark.parametrize(
    "words, message",
    [
        (["world", ""], "text"),
        (["world", "   "], "text"),
        (["world", "🙂🙂"], "🙂"),
        (["world", "a " * 2000], "1000"),
        (["world", "Hi.", "--voice", "nobody"], "nobody"),
        (["world", "Hi.", "-o", "clip.avi"], ".mp4"),
        (["world", "Hi.", "--size", "33"], "33"),
        (["corpus", "check", "nowhere"], "nowhere"),
        (["corpus", "build", "--clips", "0", "--out", "x"], "0"),
    ],
)
def test_bad_input_is_one_line_and_code_2(here, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = here(*words)
    assert code == 2 and message in err
    assert len(err.strip().splitlines()) == 1 and not list(tmp_path.rglob("*.*"))


def test_bad_input_ends_a_process_with_code_2(tmp_path):
    done = run("world", "Hi.", "--voice", "nobody", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("talker-t2av world: --voice: there is no 'nobody'")
    assert len(done.stderr.splitlines()) == 1


def test_unknown_command_lists_the_known(here):
    code, _, err = here("dmeo", "hello")
    assert code == 2 and "corpus" in err


def test_an_error_calls_the_argument_as_it_was_typed():
    parser = cli.command_parser("drive")
    for message, typed in (
        ("face: no file at bob", "--face: no file at bob"),
        ("num_steps: takes\n  a number", "--num-steps: takes a number"),
        ("output: 'a:b' is a folder", "--output: 'a:b' is a folder"),
        ("audio: me.wav: holds only silence", "recording: me.wav: holds only silence"),
        ("text: is empty", "text: is empty"),
        ("model.safetensors is cut off", "model.safetensors is cut off"),
    ):
        assert cli.as_typed(message, parser) == typed


def test_ctrl_c_during_the_first_imports(here, monkeypatch):
    """The libraries are loaded after the name of the command is known, and that takes seconds."""

    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "import_module", interrupted)
    assert here("say", "Hi.") == (130, "", "talker-t2av say: interrupted\n")
    assert "--resume" in here("train", "talker", "--help")[2]


def test_ctrl_c_at_the_start_of_a_process(tmp_path):
    """In the middle of the import of PyTorch, which is loaded by then: code 130 and one line."""
    code = (
        "import builtins, os, signal, sys\nfrom talker_t2av import cli\n"
        "load = builtins.__import__\n"
        "def counted(name, *rest, **named):\n"
        "    if name == 'torch.nn': os.kill(os.getpid(), signal.SIGINT)\n"
        "    return load(name, *rest, **named)\n"
        "builtins.__import__ = counted; sys.exit(cli.main(['say', 'Hi.', '-o', 'x.mp4']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 130 and done.stderr == "talker-t2av say: interrupted\n"
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_one_line_and_code_2(here, monkeypatch):
    """At the import of a command or while it runs; but a missing module of ours is a bug."""
    monkeypatch.setitem(sys.modules, "soundfile", None)
    code, out, err = here("drive", __file__)
    assert (code, out) == (2, "") and err.count("\n") == 1 and "'soundfile'" in err

    def missing(name):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(cli, "import_module", missing)
    module = "onnx.helper"
    said = "talker-t2av say: needs the Python package 'onnx', which is not installed\n"
    assert here("say", "Hi.") == (2, "", said)
    module = "talker_t2av.nothing"
    with pytest.raises(ModuleNotFoundError):
        cli.main(["say", "Hi."])


def test_ctrl_c_ends_quietly(tmp_path):
    """SIGINT in the middle of a build: code 130, one line, and the same command goes on later."""
    words = [
        PROGRAM,
        "corpus",
        "build",
        "--clips",
        "6",
        "--out",
        str(tmp_path / "corpus"),
        "--no-video",
        "--workers",
        "1",
    ]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while (
        not list((tmp_path / "corpus").rglob("*.flac"))
        and time.monotonic() < deadline
        and process.poll() is None
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in (0, 130) and "Traceback" not in stderr, stderr
    assert cli.main(words[1:]) == 0
    assert cli.main(["corpus", "check", str(tmp_path / "corpus"), "--workers", "1"]) == 0


def test_the_module_runs_as_a_program():
    """`accelerate launch -m talker_t2av.cli train talker ...` starts it this way."""
    done = subprocess.run(
        [sys.executable, "-m", "talker_t2av.cli", "train"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "train needs one of these behind it" in done.stderr
