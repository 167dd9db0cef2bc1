"""The command line as a user meets it: fresh processes, exit codes, one line of error,
nothing half-written.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from talker_t2av.cli import COMMANDS, GROUPS
from talker_t2av.common.media import read_video

PROGRAM = Path(sys.executable).parent / "talker-t2av"


def run(*words, cwd=None):
    return subprocess.run([PROGRAM, *map(str, words)], capture_output=True, text=True, cwd=cwd)


def test_help_lists_every_command():
    done = run("--help")
    assert done.returncode == 0 and all(name in done.stdout for name in COMMANDS)


def test_every_command_stands_in_one_group():
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(COMMANDS) and len(set(grouped)) == len(grouped)
    assert all(heading in run("--help").stdout for heading in GROUPS)


def test_half_of_a_name_says_what_may_follow():
    done = run("train")
    assert done.returncode == 2 and "semantic, judge, audio-codec" in done.stderr
    assert run().returncode == 2


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
def test_every_command_has_help(words):
    done = run(*words, "--help")
    assert done.returncode == 0 and "usage: talker-t2av " + " ".join(words) in done.stdout


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
    again = run(
        "world", "Lips and sound agree.", "-o", tmp_path / "again.mp4", "--size", 96, "--seed", 4
    )
    assert (
        again.returncode == 0
        and (tmp_path / "again.mp4").read_bytes() == (tmp_path / "first.mp4").read_bytes()
    )


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
def test_bad_input_is_one_line_and_code_2(tmp_path, words, message):
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not list(tmp_path.rglob("*.*"))


def test_unknown_command_lists_the_known():
    done = run("dmeo", "hello")
    assert done.returncode == 2 and "corpus" in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_ends_quietly(tmp_path):
    """SIGINT in the middle of a build: code 130, one line, and the same command goes on later."""
    words = [
        PROGRAM,
        "corpus",
        "build",
        "--clips",
        "40",
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
    assert run(*words[1:]).returncode == 0
    assert run("corpus", "check", tmp_path / "corpus").returncode == 0


def test_the_module_runs_as_a_program():
    """`accelerate launch -m talker_t2av.cli train talker ...` starts it this way."""
    done = subprocess.run(
        [sys.executable, "-m", "talker_t2av.cli", "say", "Hi.", "--seed", "-1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "--seed" in done.stderr
