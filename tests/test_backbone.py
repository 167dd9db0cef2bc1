"""The backbone against transformers' Qwen3 and stored vectors, and its promises: padding
and caching change nothing.
"""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from talker_t2av.common.media import load_torchaudio
from talker_t2av.model.backbone import (
    Backbone,
    BackboneConfig,
    KVCache,
    config_from_qwen3,
    config_to_qwen3,
    from_qwen3,
    to_qwen3,
)

TINY = BackboneConfig(
    vocab_size=97,
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=80,
    max_position_embeddings=160,
)
IDS = torch.randint(97, (4, 23), generator=torch.Generator().manual_seed(3))
LENGTHS = [23, 9, 1, 16]
REAL = torch.arange(23) < torch.tensor(LENGTHS)[:, None]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """transformers' Qwen3 with random weights, and the folder that it saved itself into."""
    load_torchaudio()  # transformers imports torchaudio in passing
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(1)
    model = Qwen3ForCausalLM(Qwen3Config(**config_to_qwen3(TINY))).eval()
    for p in model.parameters():
        p.data += 0.1 * torch.randn(p.shape)
    folder = tmp_path_factory.mktemp("qwen")
    model.save_pretrained(folder)
    return model.model, folder


@pytest.fixture(scope="module")
def backbone(qwen):
    return Backbone.from_pretrained(qwen[1])


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def test_full_pass_equals_transformers(qwen, backbone):
    theirs = qwen[0](input_ids=IDS, attention_mask=REAL.long()).last_hidden_state
    ours = backbone(IDS, lengths=LENGTHS)
    assert (ours - theirs)[REAL].abs().max() < 1e-5
    assert not ours[~REAL].any()


def test_long_pass_on_the_fused_path_equals_transformers(qwen, backbone):
    ids = torch.randint(97, (1, 150), generator=torch.Generator().manual_seed(4))
    assert (backbone(ids) - qwen[0](input_ids=ids).last_hidden_state).abs().max() < 1e-5


def test_embeddings_in_equal_ids_in(backbone):
    torch.testing.assert_close(
        backbone(inputs_embeds=backbone.embed(IDS)), backbone(IDS), rtol=0, atol=0
    )


def test_token_by_token_equals_transformers(qwen, backbone):
    theirs = qwen[0](input_ids=IDS).last_hidden_state
    cache = KVCache(TINY, 4, 23)
    ours = torch.cat([backbone(IDS[:, n : n + 1], kv_cache=cache) for n in range(23)], dim=1)
    assert (ours - theirs).abs().max() < 1e-5


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(1, 6), st.integers(0, 1000)
)
def test_ragged_generation_equals_each_row_alone(prompts, steps, seed):
    torch.manual_seed(7)
    backbone = Backbone(TINY).eval()
    ids = torch.randint(
        97, (len(prompts), max(prompts) + steps), generator=torch.Generator().manual_seed(seed)
    )
    cache = KVCache(TINY, len(prompts), max(prompts) + steps)
    prefill = backbone(ids[:, : max(prompts)], lengths=prompts, kv_cache=cache)
    rows = torch.arange(len(prompts))
    later = [
        backbone(ids[rows, torch.tensor(prompts) + s][:, None], kv_cache=cache)
        for s in range(steps)
    ]
    assert cache.lengths.tolist() == [n + steps for n in prompts]
    for row, n in enumerate(prompts):
        alone = backbone(ids[row : row + 1, : n + steps])[0]
        assert (torch.cat([prefill[row, :n], *(h[row] for h in later)]) - alone).abs().max() < 1e-5


def test_what_stands_in_the_padding_does_not_matter(backbone):
    x = backbone.embed(IDS)
    expected = backbone(inputs_embeds=x, lengths=LENGTHS)
    filled = torch.where(REAL[..., None], x, 1e4)  # large, not zero
    torch.testing.assert_close(backbone(inputs_embeds=filled, lengths=LENGTHS), expected)


def test_cache_is_fixed_memory_and_can_be_reset(backbone):
    cache = KVCache(TINY, 4, 23)
    tensors = cache.keys, cache.values, cache.lengths
    where, first = [t.data_ptr() for t in tensors], backbone(IDS[:, :10], kv_cache=cache)
    for n in range(10, 23):
        backbone(IDS[:, n : n + 1], kv_cache=cache)
    assert (
        cache.keys is tensors[0]
        and [t.data_ptr() for t in (cache.keys, cache.values, cache.lengths)] == where
    )
    assert cache.keys.shape == (3, 4, 2, 23, 16) and cache.nbytes == 2 * 4 * cache.keys.numel()
    with pytest.raises(ValueError, match="max_len=23"):
        backbone(IDS[:, :1], kv_cache=cache)
    cache.reset()
    assert torch.equal(backbone(IDS[:, :10], kv_cache=cache), first)  # the old content is not seen


def test_a_step_compiles_once_without_graph_breaks(backbone):
    """The stack with a cache is one graph, and later steps reuse it."""
    compiled_graphs = []

    def backend(graph, inputs):
        compiled_graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    step = torch.compile(
        lambda *arguments: backbone.stack(*arguments), backend=backend, fullgraph=True
    )
    cache, expected = KVCache(TINY, 4, 23), backbone(IDS[:, :8])
    for n in range(8):
        hidden = step(backbone.embed(IDS[:, n : n + 1]), *cache.open(1))
        cache.advance(1)
        assert (hidden[:, 0] - expected[:, n]).abs().max() < 1e-5
    assert len(compiled_graphs) == 1
    torch._dynamo.reset()


def test_stored_vectors(golden):
    tensors, spec = golden("backbone")
    settings_, tolerance = spec["config"], spec["tolerance"]["max_abs"]
    config = config_from_qwen3({"max_position_embeddings": 1024, **settings_})
    backbone = Backbone(config).eval()
    backbone.load_state_dict(
        {
            from_qwen3(n.removeprefix("weights.")): t
            for n, t in tensors.items()
            if n.startswith("weights.")
        }
    )
    ids, embeds, mask = (
        tensors["input.input_ids"],
        tensors["input.inputs_embeds"],
        tensors["input.attention_mask"].bool(),
    )
    cases = {"ids": (ids, None), "embeds": (None, embeds), "embeds_small": (None, 0.01 * embeds)}
    for name, (i, e) in cases.items():
        ours = backbone(i, e, lengths=mask.sum(1))
        assert (ours - tensors[f"output.{name}_hidden"])[mask].abs().max() < tolerance, name
    logits = backbone(ids, lengths=mask.sum(1)) @ backbone.embed_tokens.weight.T
    assert (logits - tensors["output.ids_logits"])[mask].abs().max() < 10 * tolerance

    row, prefill = settings_["incremental"]["row"], settings_["incremental"]["prefill"]
    one, n_tokens = embeds[row : row + 1], tensors["output.incremental_hidden"].shape[1]
    cache = KVCache(config, 1, n_tokens)
    parts = [backbone(inputs_embeds=one[:, :prefill], kv_cache=cache)]
    parts += [
        backbone(inputs_embeds=one[:, n : n + 1], kv_cache=cache) for n in range(prefill, n_tokens)
    ]
    assert (torch.cat(parts, 1) - tensors["output.incremental_hidden"]).abs().max() < tolerance
    assert (
        backbone(inputs_embeds=one[:, :n_tokens]) - tensors["output.full_hidden"]
    ).abs().max() < tolerance


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    backbone = Backbone(TINY)
    with torch.enable_grad():
        backbone(IDS, lengths=LENGTHS).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.parameters())


def test_qwen3_0_6b_size():
    with torch.device("meta"):
        assert sum(p.numel() for p in Backbone(BackboneConfig()).parameters()) == 596_049_920


def test_names_map_one_to_one(qwen, backbone):
    # the body alone: no `model.` in front
    theirs = {n: tuple(p.shape) for n, p in qwen[0].named_parameters()}
    ours = {n: tuple(t.shape) for n, t in backbone.state_dict().items()}
    assert {from_qwen3(n): s for n, s in theirs.items()} == ours
    assert {to_qwen3(n).removeprefix("model."): s for n, s in ours.items()} == theirs


def test_transformers_reads_what_we_save(backbone, tmp_path, qwen):
    backbone.save_pretrained(tmp_path)
    reread = type(qwen[0]).from_pretrained(tmp_path, dtype=torch.float32)
    assert (reread(input_ids=IDS).last_hidden_state - backbone(IDS)).abs().max() < 1e-5
    again = Backbone.from_pretrained(tmp_path)
    assert again.config == backbone.config and torch.equal(again(IDS), backbone(IDS))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_reads_shards_bare_names_and_other_dtypes(qwen, backbone, tmp_path):
    load_torchaudio()
    qwen[0].save_pretrained(tmp_path, max_shard_size="60KB")  # the body alone, in many files
    assert (tmp_path / "model.safetensors.index.json").exists()
    sharded = Backbone.from_pretrained(tmp_path)
    assert torch.equal(sharded(IDS), backbone(IDS))
    half = Backbone.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half(IDS).dtype == torch.bfloat16 and half.stack.rope.table.dtype == torch.float32
    torch.testing.assert_close(half(IDS).float(), backbone(IDS), rtol=0.1, atol=0.2)
    next(iter(tmp_path.glob("*.safetensors"))).unlink()
    with pytest.raises(FileNotFoundError, match="index"):
        Backbone.from_pretrained(tmp_path)


def test_mismatched_checkpoints_name_the_tensor(qwen, tmp_path):
    config, weights = (
        (qwen[1] / "config.json").read_text(),
        load_file(qwen[1] / "model.safetensors"),
    )
    (tmp_path / "config.json").write_text(config)
    name = "model.layers.1.mlp.up_proj.weight"

    def message(state):
        save_file(state, tmp_path / "model.safetensors")
        with pytest.raises(ValueError) as caught:
            Backbone.from_pretrained(tmp_path)
        return str(caught.value)

    assert "layers.1.mlp.up_proj.weight" in message({**weights, name: weights[name][:3].clone()})
    assert "stack.layers.1.mlp.up_proj.weight is missing" in message(
        {n: t for n, t in weights.items() if n != name}
    )
    assert "stack.layers.9.odd is not a tensor of this model" in message(
        {**weights, "model.layers.9.odd": torch.zeros(1)}
    )
    with pytest.raises(ValueError, match="attention_bias"):
        (tmp_path / "config.json").write_text(
            json.dumps({**json.loads(config), "attention_bias": True})
        )
        Backbone.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="head_dim"):
        config_from_qwen3({k: v for k, v in config_to_qwen3(TINY).items() if k != "head_dim"})
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(FileNotFoundError, match="safetensors"):
        Backbone.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a preset"):
        Backbone.from_pretrained(tmp_path / "nowhere")


def test_revision_and_local_files_only_reach_the_hub(backbone, tmp_path, monkeypatch):
    import huggingface_hub

    backbone.save_pretrained(tmp_path)
    asked = []

    def download(name, **how):
        asked.append((name, how["revision"], how["local_files_only"]))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    again = Backbone.from_pretrained("Qwen/some-model", revision="abc", local_files_only=True)
    assert torch.equal(again(IDS), backbone(IDS))
    Backbone.from_pretrained("Qwen/some-model")
    assert asked == [("Qwen/some-model", "abc", True), ("Qwen/some-model", None, False)]


@pytest.mark.parametrize(
    ("error", "named", "arguments"),
    [
        (ValueError, "vocab_size", dict(input_ids=torch.tensor([[0, 97]]))),
        (ValueError, "vocab_size", dict(input_ids=torch.tensor([[0, -1]]))),
        (TypeError, "input_ids", dict(input_ids=torch.zeros(1, 2))),
        (ValueError, "one of them", dict()),
        (ValueError, "one of them", dict(input_ids=IDS, inputs_embeds=torch.zeros(4, 23, 48))),
        (ValueError, "inputs_embeds", dict(inputs_embeds=torch.zeros(2, 3, 47))),
        (ValueError, "inputs_embeds", dict(inputs_embeds=torch.zeros(2, 0, 48))),
        (ValueError, "inputs_embeds", dict(input_ids=IDS[0])),
        (TypeError, "bfloat16", dict(inputs_embeds=torch.zeros(2, 3, 48, dtype=torch.bfloat16))),
        (ValueError, "lengths", dict(input_ids=IDS, lengths=[23, 9, 0, 16])),
        (ValueError, "lengths", dict(input_ids=IDS, lengths=[24, 9, 1, 16])),
        (ValueError, "lengths", dict(input_ids=IDS, lengths=[23, 9])),
        (ValueError, "lengths", dict(input_ids=IDS, lengths=[2.0, 9.0, 1.0, 1.0])),
        (ValueError, "max_len=22", dict(input_ids=IDS, kv_cache=KVCache(TINY, 4, 22))),
        (ValueError, "rows", dict(input_ids=IDS, kv_cache=KVCache(TINY, 3, 30))),
        (
            ValueError,
            "max_position_embeddings",
            dict(input_ids=torch.zeros(1, 161, dtype=torch.long)),
        ),
    ],
)
def test_bad_inputs_are_refused(backbone, error, named, arguments):
    with pytest.raises(error, match=named):
        backbone(**arguments)
    if arguments.get("kv_cache") is not None:
        assert not arguments["kv_cache"].keys.any()  # before any work


def test_cache_refuses_gradients_and_impossible_sizes(backbone):
    with torch.enable_grad(), pytest.raises(ValueError, match="no_grad"):
        backbone(IDS, kv_cache=KVCache(TINY, 4, 30))
    with pytest.raises(ValueError, match="positions"):
        KVCache(TINY, 1, 161)
    with pytest.raises(ValueError, match="positive"):
        KVCache(TINY, 0, 10)
    with pytest.raises(ValueError, match="vocab_size"):
        BackboneConfig(vocab_size=0)
