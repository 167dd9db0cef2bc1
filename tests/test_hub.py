"""Weights on disk and on the Hub: names, revisions, networks that lie side by side, bad files."""

import json

import httpx
import huggingface_hub
import pytest
import requests
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import nn

from talker_t2av.codecs.audio.codec import AudioCodec
from talker_t2av.codecs.audio.judge import Judge
from talker_t2av.codecs.audio.semantic import PhonemeRecogniser
from talker_t2av.codecs.motion.codec import MotionCodec
from talker_t2av.codecs.speaker.encoder import SpeakerEncoder
from talker_t2av.common.hub import (
    CONFIG,
    ROW_SCALE,
    WEIGHTS,
    WEIGHTS_INDEX,
    axis_size,
    count_blocks,
    find_pretrained,
    hub_errors,
    load_from_files,
    load_pretrained,
    load_weights,
    local_folder,
    printable,
    save_pretrained,
    shapes_only,
    tensor_files,
    weight_files,
)
from talker_t2av.common.media import data_dir
from talker_t2av.evaluation.sync import SyncMetrics
from talker_t2av.model.layers import Rope
from talker_t2av.model.talker import Talker


def build(sizes: dict) -> nn.Module:
    return nn.Sequential(nn.Linear(sizes["n"], 2), nn.LayerNorm(2))


@pytest.fixture
def hub(monkeypatch):
    """The Hub is `data/small` here; the last request is written down."""
    asked = {}

    def download(name, **how):
        asked.clear()
        asked.update(how, name=name)
        return str(data_dir() / "small")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_what_a_name_stands_for(tmp_path, hub):
    assert local_folder("small") == data_dir() / "small"
    assert local_folder(tmp_path) == local_folder(str(tmp_path)) == tmp_path
    assert not hub
    local_folder("owner/name")
    assert hub["name"] == "owner/name"
    assert hub["revision"] is None and hub["local_files_only"] is False
    nowhere = ("nothing", "a/b/c", "./a/b", "/no/folder", "~/models", tmp_path / "no")
    for wrong in nowhere:
        with pytest.raises(FileNotFoundError, match="neither a preset"):
            local_folder(wrong)


def test_a_preset_without_weights_says_how_to_get_some():
    for load in (local_folder, Talker.from_pretrained, SpeakerEncoder.from_pretrained):
        with pytest.raises(FileNotFoundError, match="no weights are shipped") as caught:
            load("tiny")
        said = str(caught.value)
        assert "only for small;" in said and "--preset tiny" in said and "untrained('tiny')" in said
    with pytest.raises(FileNotFoundError, match=r"preset with weights \(small\)"):
        local_folder("nothing")


def test_without_a_network_there_is_one_line(monkeypatch):
    """Whatever the library of the Hub raises, old or new; other errors go through."""
    gone = "the Hugging Face Hub cannot be reached"
    for error in (
        httpx.ConnectError("[Errno -2] Name or service not known"),
        httpx.ReadTimeout("timed out"),
        requests.ConnectionError("no route"),
        ConnectionError("offline mode"),
    ):
        with pytest.raises(ConnectionError, match=f"^what failed: {gone}") as caught:
            with hub_errors("what failed"):
                raise error
        assert "\n" not in str(caught.value) and caught.value.__suppress_context__
    for error in (ValueError("bad"), PermissionError("mine"), KeyboardInterrupt()):
        with pytest.raises(type(error)), hub_errors("what failed"):
            raise error

    def offline(*_, **how):
        raise LocalEntryNotFoundError("An error happened\nwhile trying to locate the files")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(FileNotFoundError, match=f"'me/talker': not downloaded.*{gone}") as caught:
        local_folder("me/talker")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "network",
    [AudioCodec, MotionCodec, SpeakerEncoder, PhonemeRecogniser, Judge, SyncMetrics, Talker],
)
def test_every_network_asks_the_hub_for_the_revision(network, hub):
    found = network.from_pretrained("me/weights", revision="v3", local_files_only=True)
    assert hub["name"] == "me/weights"
    assert hub["revision"] == "v3" and hub["local_files_only"] is True
    shipped = network.from_pretrained("small").state_dict()
    assert all(torch.equal(value, shipped[name]) for name, value in found.state_dict().items())


def test_a_shared_part_is_downloaded_too(hub):
    AudioCodec.from_pretrained("me/weights")
    assert {f"audio_codec/{WEIGHTS}", f"semantic/{WEIGHTS}"} <= set(hub["allow_patterns"])


def test_one_network_is_found_in_its_folder_or_the_one_above(tmp_path):
    folder = save_pretrained(build({"n": 3}), {"n": 3}, tmp_path / "kind")
    assert find_pretrained(folder, "kind") == find_pretrained(tmp_path, "kind") == folder
    with pytest.raises(FileNotFoundError, match=CONFIG):
        find_pretrained(tmp_path, "other")
    (folder / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=WEIGHTS):
        find_pretrained(tmp_path, "kind")


def test_a_failed_load_changes_nothing(tmp_path):
    module = build({"n": 3})
    before = {name: value.clone() for name, value in module.state_dict().items()}
    good = {name: torch.ones_like(value) for name, value in before.items()}
    faults = {
        "0.weight is missing": {k: v for k, v in good.items() if k != "0.weight"},
        "9.odd is not a tensor": good | {"9.odd": torch.zeros(1)},
        "0.bias has shape": good | {"0.bias": torch.zeros(5)},
        "NaN": good | {"1.bias": torch.full((2,), torch.nan)},
    }
    for message, tensors in faults.items():
        with pytest.raises(ValueError, match=message):
            load_weights(module, tensors, "here")
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    load_weights(module, good, "here")
    assert all((value == 1).all() for value in module.state_dict().values())


def test_a_configuration_that_does_not_fit_is_named(tmp_path):
    folder = save_pretrained(build({"n": 3}), {"m": 3}, tmp_path / "kind")
    with pytest.raises(ValueError, match="no configuration of a kind"):
        load_pretrained(folder, "kind", build)
    (folder / CONFIG).write_text("{")
    with pytest.raises(ValueError, match="no configuration of a kind"):
        load_pretrained(folder, "kind", build)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_several_files_with_int8_rows(tmp_path, dtype):
    """One matrix as whole numbers with a factor for each row, in two files with an index."""
    whole = torch.tensor([[-127, 3, 90], [5, 127, 0]], dtype=torch.int8)
    factors = torch.tensor([[0.5], [0.25]])
    first = {"0.weight": whole, "0.weight" + ROW_SCALE: factors}
    second = {"0.bias": torch.ones(2), "1.weight": torch.ones(2), "1.bias": torch.zeros(2)}
    save_file(first, tmp_path / "model-1.safetensors")
    save_file(second, tmp_path / "model-2.safetensors")
    where = dict.fromkeys(first, "model-1.safetensors")
    where |= dict.fromkeys(second, "model-2.safetensors")
    (tmp_path / WEIGHTS_INDEX).write_text(json.dumps({"weight_map": where}))

    with torch.device("meta"):
        module = build({"n": 3})
    places = {name: (file, name) for name, file in tensor_files(tmp_path).items()}
    assert set(places) == set(module.state_dict())
    load_from_files(module, places, tmp_path, dtype)
    assert module[0].weight.dtype == dtype
    torch.testing.assert_close(module[0].weight.detach(), (whole * factors).to(dtype))

    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-2"):
        tensor_files(tmp_path)


BROKEN_INDEX = {  # what the file holds -> what the message says
    "{}": "has no 'weight_map'",
    "[1]": "has no 'weight_map'",
    '{"weight_map": null}': "has no 'weight_map'",
    '{"weight_map": ["a"]}': "has no 'weight_map'",
    '{"weight_map": {"a": 5}}': "a takes the name of a .safetensors file",
    '{"weight_map": {"a": "../model.safetensors"}}': "in the same folder",
    '{"weight_map": {"a": "/etc/model.safetensors"}}': "in the same folder",
    '{"weight_map": {"a": "."}}': "in the same folder",
    "<html>": "is no JSON",
    "[" * 200_000: "is no JSON",
}


@pytest.mark.parametrize("content", BROKEN_INDEX, ids=lambda content: content[:40])
def test_a_broken_index_is_named(tmp_path, content):
    (tmp_path / WEIGHTS_INDEX).write_text(content)
    with pytest.raises(ValueError, match=BROKEN_INDEX[content]) as caught:
        tensor_files(tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / WEIGHTS_INDEX}: ") and "\n" not in said


def test_an_index_that_names_the_wrong_file(tmp_path):
    save_file({"0.weight": torch.ones(2, 3)}, tmp_path / "a.safetensors")
    where = {"0.weight": "a.safetensors", "0.bias": "a.safetensors"}
    (tmp_path / WEIGHTS_INDEX).write_text(json.dumps({"weight_map": where}))
    with torch.device("meta"):
        module = build({"n": 3})
    places = {name: (file, name) for name, file in tensor_files(tmp_path).items()}
    with pytest.raises(ValueError, match="a.safetensors: does not hold 0.bias"):
        load_from_files(module, places, tmp_path)


def test_row_factors_are_one_for_each_row(tmp_path):
    tensors = {"0.weight": torch.ones(2, 3), "0.weight" + ROW_SCALE: torch.ones(3, 7)}
    save_file(tensors, tmp_path / "a.safetensors")
    with torch.device("meta"):
        module = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False))
    places = {"0.weight": (tmp_path / "a.safetensors", "0.weight")}
    with pytest.raises(ValueError, match=r"row_scale has shape \(3, 7\), takes one factor"):
        load_from_files(module, places, tmp_path)


def test_sizes_and_blocks_of_files_from_outside():
    shapes = {"a": (4, 0), "b.0.w": (1,), "b.1.w": (1,)}
    assert axis_size(shapes, "a") == 4 and count_blocks(shapes, "b.") == 2
    for wrong in (("a", 1), ("a", 2), ("c", 0), ("a", 0, 5)):
        with pytest.raises(ValueError, match="these weights do not fit: [ac] "):
            axis_size(shapes, *wrong)
    with pytest.raises(ValueError, match="101 blocks b"):
        count_blocks([f"b.{i}.w" for i in range(101)], "b.")


def test_text_of_a_file_does_not_steer_the_terminal():
    assert printable("a\x1b[2J\n\u202e") == r"a\x1b[2J\n\u202e"
    assert printable("é 你好") == "é 你好"
    assert len(printable("x" * 10**6)) < 200


def test_names_and_shapes_are_compared_before_anything_is_read(tmp_path):
    folder = save_pretrained(build({"n": 4}), {"n": 4}, tmp_path)
    with torch.device("meta"):
        module = build({"n": 3})
    places = {name: (file, name) for name, file in tensor_files(folder).items()}
    with pytest.raises(ValueError, match=r"0.weight has shape \(2, 4\), takes \(2, 3\)"):
        load_from_files(module, places, folder)
    assert all(value.is_meta for value in module.state_dict().values())
    assert load_file(folder / WEIGHTS)["0.weight"].shape == (2, 4)


def test_weight_files_of_several_networks():
    """One file for each kind that has a source; a missing network is named."""
    small = data_dir() / "small"
    found = weight_files({"judge": "small", "semantic": str(small / "semantic"), "talker": None})
    assert found == {kind: small / kind / WEIGHTS for kind in ("judge", "semantic")}
    with pytest.raises((FileNotFoundError, ValueError), match="nowhere"):
        weight_files({"judge": "/nowhere/at/all"})


def test_a_table_that_nobody_computes_is_refused():
    """On the meta device it would be left with whatever the memory holds."""

    class Windowed(torch.nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.register_buffer("window", torch.hann_window(4), persistent=False)

    tensors = Windowed().state_dict()
    with shapes_only():
        made = Windowed()
    with pytest.raises(TypeError, match="Windowed does not compute window"):
        load_weights(made, tensors, "here")
    rope = Rope(8, 4, 100.0)
    with shapes_only():
        made = Rope(8, 4, 100.0)
    load_weights(made, {}, "here")
    assert torch.equal(made.table, rope.table)
