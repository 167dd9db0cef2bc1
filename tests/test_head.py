"""The diffusion head against recorded values and a second, plain writing of it."""

import json

import pytest
import torch
from golden_files import FOLDERS
from head_reference import reference_velocity

from talker_t2av.model.flow import FlowDraws, Sampling, draw_flow, flow_matching_loss, sample_flow
from talker_t2av.model.head import (
    RELEASED_HEAD_NAMES,
    DiffusionHead,
    HeadConfig,
    HeadTargets,
    SeparateHeads,
    TimeEmbedding,
    stack_streams,
    time_features,
    unstack_streams,
)
from talker_t2av.model.layers import rename

SMALL = HeadConfig(
    latent_dim=6,
    global_condition_dim=5,
    patch_size=3,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
)


def last(x):  # the recorded values are channels first
    return x.transpose(-1, -2)


def released_head(tensors, spec):
    c = spec["config"]
    config = HeadConfig(
        latent_dim=c["in_channels"],
        global_condition_dim=c["global_cond_channels"],
        patch_size=c["P"],
        hidden_size=c["hidden"],
        num_hidden_layers=c["n_layer"],
        num_attention_heads=c["n_head"],
    )
    head = DiffusionHead(config)
    weights = {
        n.removeprefix("weights."): v
        for n, v in tensors.items()
        if n.startswith("weights.") and not n.endswith("rope.w")
    }
    head.load_state_dict({rename(n, RELEASED_HEAD_NAMES): v for n, v in weights.items()})
    return head


def conditions_of(tensors):
    return {
        "hidden": tensors["input.mu"].clone(),
        "previous_patch": last(tensors["input.cond"]),
        "global_condition": tensors["input.global_cond"],
    }


def close(ours, theirs, spec):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=spec["tolerance"]["max_abs"])


def random_inputs(config, rows=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    frames = config.patch_size
    conditions = {
        "hidden": torch.randn(rows, config.hidden_size, generator=rng),
        "previous_patch": torch.randn(rows, frames, config.latent_dim, generator=rng),
        "global_condition": torch.randn(rows, config.global_condition_dim, generator=rng),
    }
    return (
        torch.randn(rows, config.patch_size, config.latent_dim, generator=rng),
        torch.rand(rows, generator=rng),
        conditions,
    )


def small_head(config=SMALL, seed=0):
    torch.manual_seed(seed)
    return DiffusionHead(config)


def test_velocity_equals_the_recorded_one(golden):
    tensors, spec = golden("dit_head")
    head = released_head(tensors, spec).requires_grad_(False)
    x, t, given = last(tensors["input.x"]), tensors["input.t"], conditions_of(tensors)
    close(time_features(t, head.config.hidden_size), tensors["mid.time_sinusoid"], spec)
    close(head.time_embedding(t), tensors["mid.time_embedding"], spec)
    close(head.delta_embedding(torch.zeros(1)), tensors["mid.delta_embedding_at_zero"], spec)
    close(head(x, t, **given, delta=tensors["input.dt"]), last(tensors["output.v"]), spec)
    close(head(x, t, **given), last(tensors["output.v_dt0"]), spec)
    close(
        head(x, t, **{**given, "hidden": 0 * given["hidden"]}),
        last(tensors["output.v_mu0_dt0"]),
        spec,
    )
    tiny = {
        **given,
        "previous_patch": 0.01 * given["previous_patch"],
        "global_condition": 0.01 * given["global_condition"],
    }
    close(head(0.01 * x, t, **tiny), last(tensors["output.v_small"]), spec)


def test_loss_and_gradients_equal_the_recorded_ones(golden):
    tensors, spec = golden("cfm_loss")
    head, given = released_head(tensors, spec), conditions_of(tensors)
    given["hidden"].requires_grad_()
    draws = FlowDraws(
        last(tensors["draw.z"]),
        tensors["draw.n_t"],
        {"hidden": tensors["draw.u_mu_drop"], "previous_patch": tensors["draw.u_context_drop"]},
    )
    loss = flow_matching_loss(
        head, last(tensors["input.x1"]), given, draws, {"hidden": 0.1, "previous_patch": 0.05}
    )
    loss.backward()
    torch.testing.assert_close(
        loss.detach(), tensors["output.loss"][0], rtol=spec["tolerance"]["loss_relative"], atol=0
    )
    close(given["hidden"].grad, tensors["grad.mu"], spec)
    names = [n for n in tensors if n.startswith("grad.estimator.")]
    assert len(names) >= 4
    for name in names:
        gradient = head.get_parameter(rename(name.removeprefix("grad."), RELEASED_HEAD_NAMES)).grad
        close(gradient, tensors[name], spec)
        assert (gradient - tensors[name]).norm() < 1e-4 * tensors[name].norm()


@pytest.mark.parametrize(
    "name, options",
    [
        ("star", {}),
        ("plain", {"zero_star": False}),
        ("star_cfg1", {"guidance_scale": 1.0}),
        ("star_50", {"num_steps": 50}),
    ],
)
def test_sampler_equals_the_recorded_one(golden, name, options):
    tensors, spec = golden("cfm_sampler")
    c, states = spec["config"], []
    options = {"num_steps": c["n_timesteps"], "guidance_scale": c["cfg_value"], **options}
    out = sample_flow(
        released_head(tensors, spec),
        last(tensors["input.z"]),
        conditions_of(tensors),
        Sampling(**options),
        callback=lambda x, t: states.append(x),
    )
    close(out, last(tensors[f"output.{name}"]), spec)
    if f"trace.{name}_x" in tensors:
        close(torch.stack(states[:-1]), last(tensors[f"trace.{name}_x"]), spec)


@pytest.mark.parametrize(
    "changes",
    [{}, {"patch_size": 4}, {"num_hidden_layers": 1, "hidden_size": 48, "num_attention_heads": 3}],
)
def test_head_equals_the_plain_writing_at_other_sizes(changes):
    config = HeadConfig(**{**SMALL.__dict__, **changes})
    head = small_head(config).double().requires_grad_(False)
    ours = dict(head.state_dict())
    released = [
        "in_proj",
        "cond_proj",
        "global_cond_proj",
        "out_proj",
        "time_mlp.linear_1",
        "time_mlp.linear_2",
        "delta_time_mlp.linear_1",
        "delta_time_mlp.linear_2",
        "decoder.input_proj",
    ]
    released = [f"{n}.{kind}" for n in released for kind in ("weight", "bias")] + [
        "decoder.norm.scale"
    ]
    parts = [
        "norm1.scale",
        "norm2.scale",
        "attn.qkv.weight",
        "attn.proj.weight",
        "mlp.fc1.weight",
        "mlp.fc2.weight",
        "mlp.proj.weight",
    ]
    released += [
        f"decoder.blocks.{layer}.{part}"
        for layer in range(config.num_hidden_layers)
        for part in parts
    ]
    assert sorted(rename(n, RELEASED_HEAD_NAMES) for n in released) == sorted(ours)  # one to one
    weights = {n: ours[rename(n, RELEASED_HEAD_NAMES)].float() for n in released}
    x, t, given = random_inputs(config)
    wanted = reference_velocity(
        weights,
        config.num_hidden_layers,
        config.num_attention_heads,
        last(x),
        given["hidden"],
        t,
        last(given["previous_patch"]),
        given["global_condition"],
    )
    torch.testing.assert_close(head.float()(x, t, **given), last(wanted), rtol=1e-4, atol=1e-5)


def test_paper_size_has_the_released_shapes():
    path = next(
        f
        for folder in FOLDERS
        for f in (folder / "manifest_full.json", folder / "manifest_talker.json")
        if f.is_file()
    )
    entries = json.loads(path.read_text())["talker"]["entries"]
    for prefix, latent, who in [("speech_cfm.", 32, 256), ("motion_cfm.", 40, 40)]:
        with torch.device("meta"):
            head = DiffusionHead(
                HeadConfig(
                    latent_dim=latent,
                    global_condition_dim=who,
                    hidden_size=1024,
                    num_hidden_layers=8,
                    num_attention_heads=8,
                )
            )
        wanted = {
            rename(n.removeprefix(prefix), RELEASED_HEAD_NAMES): shape
            for n, shape, _, kind in entries
            if n.startswith(prefix) and kind == "p"
        }
        assert {n: list(p.shape) for n, p in head.named_parameters()} == wanted


def test_every_input_and_parameter_matters():
    head = small_head()
    x, t, given = random_inputs(SMALL)
    for value in (x, t, *given.values()):
        value.requires_grad_()
    head(x, t, **given).square().mean().backward()
    for name, value in {"noisy": x, "timestep": t, **given}.items():
        assert (
            value.grad.flatten(1).abs().sum(1).min() > 0
            if value.ndim > 1
            else value.grad.abs().min() > 0
        ), name
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_rows_do_not_mix_and_frames_keep_their_order():
    head = small_head().requires_grad_(False)
    x, t, given = random_inputs(SMALL)
    whole = head(x, t, **given)
    alone = torch.cat(
        [
            head(x[k : k + 1], t[k : k + 1], **{n: v[k : k + 1] for n, v in given.items()})
            for k in range(4)
        ]
    )
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-6)
    turned = head(x, t, **{**given, "previous_patch": given["previous_patch"].flip(1)})
    assert (turned - whole).abs().max() > 1e-4


def test_second_embedding_is_a_constant():
    head = small_head().requires_grad_(False)
    x, t, given = random_inputs(SMALL)
    whole = head(x, t, **given)
    head.time_embedding.linear_2.bias += head.delta_embedding(torch.zeros(1))[0]
    for parameter in head.delta_embedding.parameters():
        parameter.zero_()
    torch.testing.assert_close(head(x, t, **given), whole, rtol=1e-4, atol=1e-6)


def test_time_features_tell_close_times_apart_in_any_precision():
    t = torch.tensor([0.5, 0.501])
    assert (time_features(t, 64)[0] - time_features(t, 64)[1]).norm() > 0.5
    embedding = TimeEmbedding(64).bfloat16()  # half-precision weights must not round the angles
    assert not torch.equal(*embedding(t))


def test_bfloat16_and_autocast_run():
    x, t, given = random_inputs(SMALL)
    head = small_head().requires_grad_(False)
    whole = head(x, t, **given)
    with torch.autocast("cpu", torch.bfloat16):
        assert (head(x, t, **given) - whole).abs().max() < 0.1
    half = head.bfloat16()
    out = half(x.bfloat16(), t, **{n: v.bfloat16() for n, v in given.items()})
    assert out.dtype == torch.bfloat16 and (out.float() - whole).abs().max() < 0.1


def test_it_learns():
    """A hundred steps bring the loss on one repeated target well below that of the mean."""
    head, rng = small_head(), torch.Generator().manual_seed(0)
    x, _, given = random_inputs(SMALL, rows=8)
    optimizer, losses = torch.optim.Adam(head.parameters(), 1e-2), []
    for _ in range(150):
        loss = flow_matching_loss(head, x, given, draw_flow(x, {}, rng, num_draws=4), {})
        optimizer.zero_grad(), loss.backward(), optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


# ---- the heads of all streams ----

CONFIGS = {
    "audio": SMALL,
    "motion": HeadConfig(**{**SMALL.__dict__, "latent_dim": 4, "global_condition_dim": 7}),
}


def inputs_of_all(rows=3, seed=0):
    """Random inputs of both heads, apart and stacked; the hidden state is the same."""
    apart = {
        name: random_inputs(config, rows, seed + i)
        for i, (name, config) in enumerate(CONFIGS.items())
    }
    noisy, timestep, conditions = apart["audio"]
    stacked = {
        "noisy": stack_streams(a[0] for a in apart.values()),
        "timestep": timestep,
        "hidden": conditions["hidden"],
        "previous_patch": stack_streams(a[2]["previous_patch"] for a in apart.values()),
        "global_condition": stack_streams(a[2]["global_condition"] for a in apart.values()),
    }
    return apart, stacked


def test_streams_survive_the_stack():
    a, b = torch.randn(2, 3, 5), torch.randn(2, 3, 4)
    stacked = stack_streams([a, b])
    assert stacked.shape == (2, 2, 3, 5) and not stacked[:, 1, :, 4:].any()
    for found, want in zip(unstack_streams(stacked, (5, 4)), (a, b)):
        assert torch.equal(found, want)


@pytest.mark.parametrize("names", [("audio", "motion"), ("motion",), ("audio",)])
def test_separate_heads_are_each_head_alone(names):
    torch.manual_seed(0)
    heads = SeparateHeads(CONFIGS).requires_grad_(False)
    apart, stacked = inputs_of_all()
    which = [i for i, name in enumerate(CONFIGS) if name in names]
    some = {key: value[:, which] if value.ndim > 2 else value for key, value in stacked.items()}
    velocities = unstack_streams(
        heads.select(names)(**some), [CONFIGS[name].latent_dim for name in names]
    )
    for name, velocity in zip(names, velocities):
        noisy, _, conditions = apart[name]
        alone = heads[name](
            noisy, stacked["timestep"], **conditions | {"hidden": stacked["hidden"]}
        )
        torch.testing.assert_close(velocity, alone)


def test_each_stream_learns_from_its_own_targets():
    """Losses are those of the rows that count, with draws stream after stream; none: 0."""
    torch.manual_seed(0)
    heads, rng = SeparateHeads(CONFIGS), torch.Generator().manual_seed(1)
    hidden = torch.randn(2, 4, SMALL.hidden_size, generator=rng)
    targets = {}
    for name, config in CONFIGS.items():
        random = lambda *shape: torch.randn(*shape, generator=rng)
        mask = torch.rand(2, 4, generator=rng) < 0.6
        targets[name] = HeadTargets(
            random(2, 4, 3, config.latent_dim),
            mask,
            random(2, 4, 3, config.latent_dim),
            random(2, config.global_condition_dim),
        )
    rates = {"hidden": 0.1, "previous_patch": 0.05}
    losses = heads.losses(hidden, targets, rates, 2, torch.Generator().manual_seed(2))
    again = torch.Generator().manual_seed(2)
    for name, head in heads.items():
        data, conditions = targets[name].rows(hidden)
        assert len(data) == targets[name].is_target.sum()
        torch.testing.assert_close(
            losses[name],
            flow_matching_loss(head, data, conditions, draw_flow(data, rates, again, 2), rates),
        )
    nothing = {
        name: HeadTargets(t.targets, t.is_target & False, t.previous_patch, t.global_condition)
        for name, t in targets.items()
    }
    assert all(loss == 0 for loss in heads.losses(hidden, nothing, rates, 2, again).values())


@pytest.mark.parametrize(
    "field, value",
    [
        ("latent_dim", 0),
        ("patch_size", 2.5),
        ("num_hidden_layers", True),
        ("hidden_size", 18),
        ("hidden_size", 2),
    ],
)
def test_bad_sizes_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        HeadConfig(**{**SMALL.__dict__, field: value})
