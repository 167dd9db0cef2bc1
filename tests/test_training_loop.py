"""The training loop survives SIGKILL at random moments, and two processes do what one would do."""

import argparse
import hashlib
import itertools
import json
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from talker_t2av.common import trainer as trainer_module
from talker_t2av.common.trainer import (
    EMA,
    StepSampler,
    TrainConfig,
    check_folder,
    command_text,
    every_step,
    fit,
    given_sources,
    learning_rate_at,
    load_checkpoint,
    run_training,
    save_checkpoint,
    shuffled_batches,
    training_options,
    with_overrides,
)

# Processes that are forked from one that has imported all this (PyTorch imports torch._dynamo when
# an optimizer is made): a start costs no imports.
# (One such server serves a whole test run, so test_corpus.py names the same modules.)
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["accelerate", "torch._dynamo", "talker_t2av.common.trainer", "talker_t2av.world.build"]
)


def train(out, resume, steps=60, pause=0.0, dropout=0.1):
    torch.set_num_threads(1)
    torch.manual_seed(3)
    x = torch.randn(64, 8)
    model = nn.Sequential(nn.Linear(8, 32), nn.SiLU(), nn.Dropout(dropout), nn.Linear(32, 8))

    def loss_fn(model, batch, generator):
        time.sleep(pause)
        noise = torch.randn(batch[0].shape, generator=generator) if dropout else 0
        return {"loss": (model(batch[0] + 0.1 * noise) - batch[0].flip(-1)).square().mean()}

    config = TrainConfig(
        steps=steps, warmup_steps=5, save_every=7, bf16=False, ema_decay=0.9, seed=11
    )
    batches = shuffled_batches(torch.utils.data.TensorDataset(x), 16, seed=11)
    fit(model, loss_fn, batches, config, out, resume=resume, progress=False)


def start_training(out, resume, **options):
    process = FORKS.Process(target=train, args=(out, resume), kwargs=options)
    process.start()
    return process


def finish(process, seconds=120):
    process.join(seconds)
    assert process.exitcode == 0


def wait_for(condition, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.exitcode is None
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def test_sigkill_and_resume_is_bit_exact(tmp_path):
    """Killed three times at random moments and resumed, the run ends with the bytes of
    the undisturbed run.
    """
    finish(start_training(tmp_path / "whole", False))
    rng, out = random.Random(0), tmp_path / "killed"
    for attempt in range(3):
        seen = set(out.glob("checkpoint-*"))
        process = start_training(out, attempt > 0, pause=0.01)
        wait_for(lambda seen=seen: set(out.glob("checkpoint-*")) - seen, process)
        time.sleep(0.1 * rng.random())
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    finish(start_training(out, True))
    for name in ("model", "ema", "optimizer"):
        expected, got = (
            load_file(folder / "checkpoint-00000060" / f"{name}.safetensors")
            for folder in (tmp_path / "whole", out)
        )
        assert expected.keys() == got.keys() and all(
            torch.equal(expected[key], got[key]) for key in expected
        ), name


def test_two_processes_equal_one(tmp_path):
    """The same training on two processes, each with half of every batch, learns the same weights
    (up to the order of sums).
    """
    finish(start_training(tmp_path / "one", False, steps=20, dropout=0.0))
    script = tmp_path / "train.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_training_loop import train\n"
        "train(sys.argv[1], False, steps=20, dropout=0.0)\n"
    )
    command = [Path(sys.executable).parent / "accelerate", "launch", "--cpu"]
    command += ["--num_processes", "2", "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", script, tmp_path / "two"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert ran.returncode == 0, ran.stderr
    one, two = (
        load_file(tmp_path / out / "checkpoint-00000020" / "model.safetensors")
        for out in ("one", "two")
    )
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)


def test_half_written_checkpoint_is_ignored(tmp_path):
    model = nn.Linear(2, 2)
    optimizer, ema, config = (
        torch.optim.AdamW(model.parameters()),
        EMA(model, 0.9),
        TrainConfig(steps=10),
    )
    save_checkpoint(tmp_path, 3, model, ema, optimizer, config, [])
    (tmp_path / ".partial-00000004").mkdir()
    assert load_checkpoint(tmp_path, model, ema, optimizer, config) == (3, [])


@pytest.mark.parametrize(
    "name", ["state.json", "model.safetensors", "ema.safetensors", "optimizer.safetensors"]
)
def test_a_damaged_checkpoint_is_named_and_changes_nothing(tmp_path, name):
    model = nn.Linear(2, 2)
    optimizer, ema = torch.optim.AdamW(model.parameters()), EMA(model, 0.9)
    config = TrainConfig(steps=10)
    save_checkpoint(tmp_path, 3, model, ema, optimizer, config, [])
    path = tmp_path / "checkpoint-00000003" / name
    path.write_bytes(path.read_bytes()[:5])
    with torch.no_grad():
        model.weight.fill_(7.0)
    with pytest.raises(ValueError, match="checkpoint-00000003 is damaged"):
        load_checkpoint(tmp_path, model, ema, optimizer, config)
    assert (model.weight == 7.0).all()


def test_sampler_covers_every_epoch_exactly():
    """12 items in batches of 4: each epoch of three steps visits every item
    once, in another order.
    """
    steps = [batch for batch, _ in zip(StepSampler(12, 4, seed=5), range(9))]
    epochs = [sum(steps[i : i + 3], []) for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs) and epochs[0] != epochs[1]


def test_sampler_starts_anywhere():
    """Also in the middle of an epoch, and on each of two processes."""
    for rank, num_processes in ((0, 1), (0, 2), (1, 2)):
        whole = StepSampler(11, 4, 5, 0, rank, num_processes)
        steps = list(itertools.islice(whole, 9))
        for start in range(9):
            late = StepSampler(11, 4, 5, start, rank, num_processes)
            assert list(itertools.islice(late, 9 - start)) == steps[start:]


def test_batches_from_a_function_of_the_step():
    batches = every_step(lambda step, rank, num_processes: (step, rank, num_processes))
    assert list(itertools.islice(batches(3), 2)) == [(3, 0, 1), (4, 0, 1)]
    assert next(batches(5, 1, 2)) == (5, 1, 2)


def test_a_loss_that_is_no_number_stops_the_run():
    with pytest.raises(FloatingPointError, match="step 0"):
        data = torch.utils.data.TensorDataset(torch.randn(8, 2))
        fit(
            nn.Linear(2, 2),
            lambda model, batch, generator: {"loss": model(batch[0]).sum() * float("nan")},
            shuffled_batches(data, 4),
            TrainConfig(steps=3),
            progress=False,
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"warmup_steps": -1},
        {"learning_rate": 0},
        {"final_fraction": 1.1},
        {"ema_decay": 1.0},
        {"save_every": 0},
        {"validate_every": 0},
    ],
)
def test_bad_settings_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainConfig(**{"steps": 5} | wrong)


def test_one_step_schedule():
    assert learning_rate_at(0, TrainConfig(steps=1, warmup_steps=0)) == 1e-3


# --- what the `train` commands share


@dataclass(frozen=True)
class Recipe:
    train: TrainConfig
    size: int = 3


RECIPES = {
    "tiny": Recipe(TrainConfig(steps=5), size=1),
    "small": Recipe(TrainConfig(steps=50, seed=9)),
}


def parsed(*words, add=lambda parser: None):
    parser = argparse.ArgumentParser()
    training_options(parser, RECIPES, func=print)
    add(parser)
    return parser.parse_args(["--out", "x", *words])


def test_options_reach_the_recipe():
    assert parsed().func is print and parsed().preset == "small"
    # --seed is 0 unless given
    assert with_overrides(RECIPES["small"], parsed()).train == TrainConfig(steps=50, seed=0)
    changed = with_overrides(RECIPES["tiny"], parsed("--steps", "7", "--seed", "4"))
    assert changed == Recipe(TrainConfig(steps=7, seed=4), size=1)
    with pytest.raises(ValueError, match="-3"):
        with_overrides(RECIPES["tiny"], parsed("--steps", "-3"))


@dataclass(frozen=True)
class Follower:
    train: TrainConfig
    judge: str = "small"


def test_networks_that_a_recipe_names_are_options():
    """Given, they replace the recipe's; the recipe of the parsed words is what is trained."""
    parser = argparse.ArgumentParser()
    recipes = {"small": Follower(TrainConfig(steps=5))}
    training_options(parser, recipes, func=print, sources={"judge": "who judges"})
    plain = parser.parse_args(["--out", "x"])
    given = parser.parse_args(["--out", "x", "--judge", "mine", "--steps", "7"])
    assert plain.recipe_of(plain) == recipes["small"] and given_sources(plain) == []
    assert given.recipe_of(given) == Follower(TrainConfig(steps=7), judge="mine")
    assert given_sources(given) == ["judge"]


@pytest.mark.parametrize(
    "words, text",
    [
        ([], ""),
        (["--preset", "tiny"], ""),
        (["--seed", "2"], " --seed 2"),
        (["--steps", "9", "--seed", "2"], " --steps 9 --seed 2"),
        (["--set", "a=1", "--set", 'b="two words"'], " --set a=1 --set 'b=\"two words\"'"),
        (["--resume", "--results", "/here/r.json"], ""),
    ],
)
def test_command_text_can_be_typed_again(words, text):
    """Folders of this machine are not in it, defaults are not, and the shell reads
    back what was given.
    """
    args = parsed(
        *words,
        add=lambda parser: (
            parser.add_argument("--set", action="append", default=[]),
            parser.add_argument("--data", default="/here"),
        ),
    )
    assert (
        command_text("train x", args, ("data", "out"), ("set", "steps", "seed"))
        == f"talker-t2av train x --preset {args.preset} --data DIR --out DIR{text}"
    )


@pytest.mark.parametrize("main", [True, False])
def test_run_trains_everywhere_and_writes_once(tmp_path, monkeypatch, capsys, main):
    import accelerate

    monkeypatch.setattr(
        accelerate, "PartialState", lambda: argparse.Namespace(is_main_process=main)
    )
    args, calls = parsed("--preset", "tiny", "--resume", "--results", str(tmp_path / "r.json")), []
    args.out = str(tmp_path / "out")
    finish = lambda trained, recipe, out, seconds: (
        {"trained": trained, "size": recipe.size, "out": out.name, "timed": seconds >= 0},
        "done",
    )
    assert (
        run_training(
            args, "train x", RECIPES["tiny"], lambda *given: calls.append(given) or 7, finish
        )
        == 0
    )
    assert (
        calls == [(RECIPES["tiny"], tmp_path / "out", True)]
        and (tmp_path / "r.json").exists() == main
    )
    if main:
        assert capsys.readouterr().out == f"{tmp_path / 'out'}: done\n"
        record = json.loads((tmp_path / "r.json").read_text())
        assert (
            record["values"] == {"trained": 7, "size": 1, "out": "out", "timed": True}
            and record["command"] == "talker-t2av train x --preset tiny --out DIR"
        )


@pytest.mark.parametrize("clean", [True, False, None])
def test_results_say_which_code_and_which_weights_made_them(tmp_path, monkeypatch, capsys, clean):
    """Code as it was at the start, parents by checksum; uncommitted changes are told in the end."""
    facts = {"version": "1.2", "commit": "abc", "clean": clean}
    monkeypatch.setattr(trainer_module, "code_facts", lambda: dict(facts))
    parent = tmp_path / "judge.safetensors"
    parent.write_bytes(b"weights")

    def train(recipe, out, resume):
        facts["commit"] = "later"
        return 7

    args = parsed("--preset", "tiny", "--results", str(tmp_path / "r.json"))
    args.out = str(tmp_path / "out")
    finish = lambda *rest: ({}, "done")
    run_training(args, "train x", RECIPES["tiny"], train, finish, parents={"judge": parent})
    record = json.loads((tmp_path / "r.json").read_text())
    assert (record["version"], record["commit"], record["clean"]) == ("1.2", "abc", clean)
    assert record["parents"] == {"judge": hashlib.sha256(b"weights").hexdigest()}
    assert ("uncommitted" in capsys.readouterr().err) == (clean is False)


def test_folder_is_checked_before_any_work(tmp_path):
    assert check_folder(None, False) is None and check_folder(str(tmp_path), False) == tmp_path
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        check_folder(tmp_path, True)
    with pytest.raises(ValueError, match="folder"):
        check_folder(None, True)
    (tmp_path / "checkpoint-00000003").mkdir()
    assert check_folder(tmp_path, True) == tmp_path
    with pytest.raises(FileExistsError, match="holds checkpoints"):
        check_folder(tmp_path, False)
