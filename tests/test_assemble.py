"""From a recipe's run to a model folder: only finished stages, complete or not at all."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from talker_t2av.cli import main
from talker_t2av.common.hub import WEIGHTS
from talker_t2av.common.media import data_dir
from talker_t2av.inference.assemble import (
    NETWORKS,
    assemble_model,
    collect_results,
    finished_stage,
    without_semantic,
)
from talker_t2av.training.recipe import products, write_note

SHIPPED = data_dir() / "small"


def note_stage(folder):
    write_note(folder, {"basis": {}, "products": products(folder)})


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    "What a recipe would leave, from the shipped weights."
    run = tmp_path_factory.mktemp("assemble") / "run"
    for name in NETWORKS:
        shutil.copytree(SHIPPED / name, run / name)
        (run / name / "results.json").write_text(json.dumps({"values": name}))
    inside = load_file(SHIPPED / "semantic" / WEIGHTS)
    both = load_file(SHIPPED / "audio_codec" / WEIGHTS)
    for name, tensor in inside.items():
        if name.startswith("encoder."):
            both["semantic." + name.removeprefix("encoder.")] = tensor
    save_file(both, run / "audio_codec" / WEIGHTS)
    (run / "recipe.json").write_text("{}")
    (run / "talker" / "checkpoint-00000001").mkdir()
    (run / "talker" / "checkpoint-00000001" / "optimizer.safetensors").write_bytes(b"1")
    for name in NETWORKS:
        note_stage(run / name)
    return run


@pytest.fixture
def run(finished_run, tmp_path):
    "The same in a folder of its own, whose files may be changed."
    copy = tmp_path / "run"
    shutil.copytree(finished_run, copy)
    return copy


def test_model_is_the_shipped_one_and_nothing_else(finished_run, tmp_path):
    model = assemble_model(finished_run, tmp_path / "a" / "model", voices=["ada"])
    for name in NETWORKS:
        made, expected = (load_file(folder / name / WEIGHTS) for folder in (model, SHIPPED))
        assert made.keys() == expected.keys()
        assert all(torch.equal(made[key], expected[key]) for key in expected)
    assert load_file(model / "voices.safetensors").keys() == {"ada"}
    names = {str(path.relative_to(model)) for path in model.rglob("*") if path.is_file()}
    expected = {str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*") if path.is_file()}
    assert names == expected | {"voices.safetensors"}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["model"]


def test_unfinished_missing_and_changed_stages_are_refused(run, tmp_path):
    write_note(run / "judge", {"basis": {}, "products": None})
    with pytest.raises(ValueError, match="judge is not finished"):
        assemble_model(run, tmp_path / "model")
    note_stage(run / "judge")
    shutil.rmtree(run / "talker")
    with pytest.raises(ValueError, match="talker is not finished"):
        assemble_model(run, tmp_path / "model")
    config = run / "speaker" / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(
        ValueError, match="config.json is no longer what the stage speaker has made"
    ):
        finished_stage(run, "speaker")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_codec_that_heard_through_another_network_is_refused():
    semantic = {"encoder.a": torch.ones(2), "head.b": torch.ones(1)}
    codec = {"semantic.a": torch.ones(2), "encoder.a": torch.zeros(3)}
    assert without_semantic(codec, semantic).keys() == {"encoder.a"}
    for other in ({"encoder.a": torch.zeros(2)}, {"encoder.a": torch.ones(3)}, {}):
        with pytest.raises(ValueError, match="semantic.a is not that of the stage semantic"):
            without_semantic(codec, other)


def test_failure_on_the_way_leaves_nothing(run, tmp_path):
    with pytest.raises(ValueError, match="nobody"):
        assemble_model(run, tmp_path / "model", voices=["nobody"])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_command_refuses_in_one_line(run, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    assert main(["assemble", str(run), "--out", str(tmp_path / "there")]) == 2
    assert "--out: " in capsys.readouterr().err
    assert main(["assemble", str(tmp_path / "nowhere"), "--out", str(tmp_path / "m")]) == 2
    assert "RUN: takes the folder of a recipe's run" in capsys.readouterr().err


def test_results_of_every_network_are_collected(finished_run, tmp_path):
    collect_results(finished_run, tmp_path / "results")
    names = {path.name for path in (tmp_path / "results").iterdir()}
    assert names == {f"{name}.json" for name in NETWORKS.values()} | {"recipe_small.json"}
    values = json.loads((tmp_path / "results" / "talker_training.json").read_text())
    assert values["values"] == "talker"
