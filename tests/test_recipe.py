"""One command trains every network: recipes are read with care, finished stages are kept, changed
ones are refused, a killed run goes on.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import talker_t2av
from talker_t2av.cli import COMMANDS, main
from talker_t2av.codecs.audio.codec import AudioCodec
from talker_t2av.common.media import data_dir, file_sha256
from talker_t2av.model.talker import Talker
from talker_t2av.training import recipe as module
from talker_t2av.training.recipe import (
    STAGE_COMMANDS,
    Stage,
    all_settings,
    basis_of,
    code_files,
    plan_row,
    plan_text,
    products,
    read_note,
    read_recipe,
    run_recipe,
    state_of,
    write_note,
)

PACKAGE = Path(talker_t2av.__file__).parent
RECIPES = data_dir() / "recipes"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.txt"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["small", "tiny"])
def test_shipped_recipes_make_every_network(name):
    """Every training command once or more, each network that ships has a stage, and the talker
    comes from the others' work.
    """
    stages = {stage.name: stage for stage in read_recipe(RECIPES / f"{name}.txt")}
    shipped = {path.parent.name for path in (data_dir() / "small").glob("*/model.safetensors")}
    assert shipped <= set(stages)
    assert {stage.subcommand for stage in stages.values()} == set(STAGE_COMMANDS)
    assert set(stages["audio_codec"].parents) == {"semantic", "judge"}
    assert set(stages["latents"].parents) == {"audio_codec", "motion_codec", "speaker"}
    assert "latents" in stages["talker"].parents


def test_the_command_line_and_recipes_mean_the_same_commands():
    """Every training command may stand in a recipe, and both names lead to one function."""
    trains = {name for name in COMMANDS if name.startswith("train ")} - {"train all"}
    assert set(STAGE_COMMANDS) == trains | {"latents"}
    assert all(COMMANDS[name][0] == target for name, target in STAGE_COMMANDS.items())


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "no stage"),
        ("judge train judge", "line 1"),
        ("  --seed 1", "line 1"),
        ("a: sing", "'sing'"),
        ("a: train judge\na: train judge", "line 2"),
        ("data: train judge", "taken"),
        ("b: latents --speaker {a}", "{a}"),
        ("b: latents --speaker {a}\na: train speaker", "{a}"),
    ],
)
def test_bad_recipes_are_refused(tmp_path, text, words):
    with pytest.raises(ValueError, match="recipe: ") as error:
        read_recipe(written(tmp_path, text))
    assert words in str(error.value)


def test_lines_go_on_and_comments_do_not_count(tmp_path):
    text = "# mine\n\na: train judge  # first\n  --preset tiny\n  --seed 2\n"
    assert read_recipe(written(tmp_path, text)) == [
        Stage("a", "train judge --preset tiny --seed 2")
    ]


def test_the_code_of_a_stage_is_all_it_imports_and_no_more():
    judge, talker = (
        code_files(f"talker_t2av.{name}") for name in ("codecs.audio.judge", "training.talker")
    )
    for needed in ("codecs/audio/judge.py", "common/trainer.py", "world/corpus.py", "world/face"):
        assert any(path.is_relative_to(PACKAGE / needed) for path in judge), needed
    assert PACKAGE / "model" / "talker.py" in set(talker) - set(judge)
    # imported inside a function
    assert PACKAGE / "world" / "voice" / "neural.py" in judge
    assert not any(path.is_relative_to(PACKAGE / "inference") for path in judge)


def test_what_a_stage_rests_on_names_every_change(tmp_path):
    """Command, named files, parents and threads: each change is seen, and by its name."""
    texts = tmp_path / "texts.txt"
    texts.write_text("Come in.\n")
    folders = {"a": tmp_path / "a", "b": tmp_path / "b"}
    folders["a"].mkdir()
    (folders["a"] / "model.safetensors").write_bytes(b"one")
    stage = Stage("b", f"latents --speaker {{a}} --texts {texts}")
    basis = basis_of(stage, folders, 1)
    write_note(folders["b"], {"basis": basis, "products": None})
    assert state_of(folders["b"], basis) == "begun"
    assert basis["parents"] == {
        "a": {"model.safetensors": file_sha256(folders["a"] / "model.safetensors")}
    }
    assert state_of(folders["b"], basis_of(stage, folders, 2)) == "changed: threads"
    longer = Stage("b", stage.command + " --clips 3")
    assert state_of(folders["b"], basis_of(longer, folders, 1)) == "changed: command"
    texts.write_text("Go out.\n")
    assert state_of(folders["b"], basis_of(stage, folders, 1)) == "changed: files"
    texts.write_text("Come in.\n")
    (folders["a"] / "model.safetensors").write_bytes(b"two")
    assert state_of(folders["b"], basis_of(stage, folders, 1)) == "changed: parents"


def test_finished_means_that_the_files_are_what_they_were(tmp_path):
    basis = {"command": "x"}
    assert state_of(tmp_path / "none", basis) == "to do"
    (tmp_path / "config.json").write_text("{}")
    write_note(tmp_path, {"basis": basis, "products": products(tmp_path), "seconds": 9.0})
    assert state_of(tmp_path, basis) == "finished"
    (tmp_path / "config.json").write_text("{ }")
    assert state_of(tmp_path, basis) == "changed: its own files"


def test_the_plan_adds_what_is_known(tmp_path):
    known = {"a": {"seconds": 120.0, "bytes": 3_000_000}}
    rows = [plan_row("a", "to do", tmp_path / "a", known)]
    assert "about 2 minutes" in plan_text(rows)
    rows.append(plan_row("b", "to do", tmp_path / "b", known))
    assert "?" in plan_text(rows) and "about" not in plan_text(rows)


def test_settings_of_every_stage_are_shown(capsys):
    assert main(["train", "all", "--preset", "small", "--show"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown) == {stage.name for stage in read_recipe(RECIPES / "small.txt")}
    assert shown["talker"]["settings"]["train"]["steps"] > 1000
    assert shown["audio_codec"]["settings"]["semantic"] == "{semantic}"
    assert shown["latents"]["settings"]["clips"] > 1000
    assert all_settings(RECIPES / "tiny.txt")["semantic"]["settings"]["train"]["steps"] < 100


def test_bad_arguments_are_refused_before_any_work(tmp_path, capsys):
    for words in (
        ["--out", str(tmp_path / "run"), "--recipe", str(tmp_path / "none.txt")],
        ["--out", str(tmp_path / "run"), "--threads", "0"],
        ["--preset", "tiny"],
    ):
        assert main(["train", "all", *words]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


CHEAP = """# a chain of stages of every kind; all nine would cost a minute and a half more
judge: train judge --preset tiny --steps 2
audio_codec: train audio-codec --preset tiny --steps 2 --judge {judge}
latents: latents --clips 4 --validation 4 --workers 1
  --audio-codec {audio_codec} --motion-codec track --speaker small
talker: train talker --preset tiny --steps 2 --data {latents} --set check_clips=4
"""


def stage_process(words: list[str], environment: dict[str, str]) -> None:
    """What `python -m talker_t2av.cli` does, in a process that has imported PyTorch already."""
    import torch

    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.exit(main(words))


class ForkedStage:
    """Takes the place of `subprocess.Popen`: a stage still has a process of its own, forked from
    one that has done the imports, which saves half of its time.
    """

    def __init__(self, program: list[str], env: dict[str, str]):
        assert program[:3] == [sys.executable, "-m", "talker_t2av.cli"]
        forks = multiprocessing.get_context("forkserver")
        # the list of test_training_loop.py: one server serves a whole test run
        forks.set_forkserver_preload(
            ["accelerate", "torch._dynamo", "talker_t2av.common.trainer", "talker_t2av.world.build"]
        )
        self.process = forks.Process(target=stage_process, args=(program[3:], env))
        self.process.start()

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    poll = returncode.fget

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a stage", timeout)
        return self.returncode


FORKED = SimpleNamespace(Popen=ForkedStage, TimeoutExpired=subprocess.TimeoutExpired)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A recipe, killed in its first stage and gone on with: some stages of `tiny`, or, with
    TALKER_T2AV_SLOW=1, all of them. The killed run and its stage are started as users start them.
    """
    folder = tmp_path_factory.mktemp("recipe")
    slow = os.environ.get("TALKER_T2AV_SLOW") == "1"
    path = folder / "mine.txt"
    path.write_text((RECIPES / "tiny.txt").read_text() if slow else CHEAP)
    words = ["train", "all", "--recipe", str(path), "--out", str(folder / "run"), "--threads", "1"]
    program = [sys.executable, "-m", "talker_t2av.cli", *words]
    process = subprocess.Popen(program, start_new_session=True, stdout=subprocess.DEVNULL)
    while not (folder / "run" / "judge" / "stage.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "subprocess", FORKED)
        assert main(words) == 0
    return path, folder / "run"


def test_the_whole_recipe_runs_from_an_empty_folder(run, capsys):
    """All stages are finished, their products load, and the record names code and checksums."""
    path, out = run
    record = json.loads((out / "recipe.json").read_text())
    stages = record["values"]["stages"]
    assert list(stages) == [stage.name for stage in read_recipe(path)]
    assert {"version", "commit", "clean"} <= set(record)
    for name, stage in stages.items():
        assert stage["products"] == products(out / name) != {}
        assert stage["seconds"] > 0 and stage["bytes"] > 0
    assert stages["judge"]["sittings"] == 2
    assert stages["audio_codec"]["sittings"] == 1
    AudioCodec.from_pretrained(out / "audio_codec")
    Talker.from_pretrained(out / "talker")
    audio = json.loads((out / "audio_codec" / "results.json").read_text())
    parents = {kind for kind in ("semantic", "judge") if kind in stages}
    assert audio["parents"] == {
        kind: stages[kind]["products"]["model.safetensors"] for kind in parents
    }
    assert str(out) not in audio["command"]


def test_nothing_is_done_twice_and_nothing_is_thrown_away(run, monkeypatch, capsys):
    """Run again, no stage starts. A finished stage whose files changed is refused; with --redo it
    is put aside and made anew, to the same bytes, so that no other stage has to follow.
    """
    monkeypatch.setattr(module, "subprocess", FORKED)
    path, out = run
    started = []
    real = module.run_stage
    monkeypatch.setattr(
        module,
        "run_stage",
        lambda stage, *rest: started.append(stage.name) or real(stage, *rest),
    )
    assert run_recipe(path, out, threads=1) == 0 and started == []
    weights = out / "judge" / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + b"\0")
    with pytest.raises(ValueError, match="its own files"):
        run_recipe(path, out, threads=1)
    assert started == [] and weights.read_bytes() != before
    assert run_recipe(path, out, threads=1, redo=True) == 0
    assert started == ["judge"] and weights.read_bytes() == before
    assert (out / "judge.before-1" / "stage.json").is_file()
    with pytest.raises(ValueError, match="threads"):
        run_recipe(path, out, threads=2)


def test_a_failing_stage_ends_the_run(tmp_path, capfd):
    """The exit code is the stage's; later stages do not begin; nothing counts as finished."""
    path = written(
        tmp_path, "a: latents --clips 0 --audio-codec pca --motion-codec track\nb: train judge\n"
    )
    assert run_recipe(path, tmp_path / "run", threads=1) == 2
    assert "a ended with exit code 2" in capfd.readouterr().err
    assert read_note(tmp_path / "run" / "a")["products"] is None
    assert not (tmp_path / "run" / "b").exists()
