"""Flow matching against recorded values, known solutions and its own identities."""

import math

import pytest
import torch
from head_reference import reference_velocity
from hypothesis import given, settings
from hypothesis import strategies as st

from talker_t2av.model.flow import (
    FlowDraws,
    Sampling,
    draw_flow,
    drop_condition,
    euler,
    flow_matching_loss,
    guide,
    guided_velocity,
    heun,
    interpolate,
    logit_normal_timesteps,
    midpoint,
    sample_flow,
    target_velocity,
    time_grid,
    zero_star_steps,
)

SOLVERS = [(euler, 1), (midpoint, 2), (heun, 2)]
RATES = {"hidden": 0.1, "previous_patch": 0.05}


def last(x):  # the recorded values are channels first
    return x.transpose(-1, -2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def reference_network(tensors, spec):
    """The recorded network as a velocity function of ours, and its weights."""
    c = spec["config"]
    weights = {
        n.removeprefix("weights.estimator."): v.clone()
        for n, v in tensors.items()
        if n.startswith("weights.")
    }

    def velocity(noisy, timestep, hidden, previous_patch, global_condition):
        return last(
            reference_velocity(
                weights,
                c["n_layer"],
                c["n_head"],
                last(noisy),
                hidden,
                timestep,
                last(previous_patch),
                global_condition,
            )
        )

    return velocity, weights


def conditions_of(tensors):
    return {
        "hidden": tensors["input.mu"].clone(),
        "previous_patch": last(tensors["input.cond"]),
        "global_condition": tensors["input.global_cond"],
    }


def recorded_draws(tensors):
    return FlowDraws(
        last(tensors["draw.z"]),
        tensors["draw.n_t"],
        {"hidden": tensors["draw.u_mu_drop"], "previous_patch": tensors["draw.u_context_drop"]},
    )


def close(ours, theirs, spec):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=spec["tolerance"]["max_abs"])


def test_loss_and_gradients_equal_the_recorded_ones(golden):
    tensors, spec = golden("cfm_loss")
    network, weights = reference_network(tensors, spec)
    wanted = {
        n.removeprefix("grad.estimator."): v
        for n, v in tensors.items()
        if n.startswith("grad.estimator.")
    }
    for name in wanted:
        weights[name].requires_grad_()
    conditions = conditions_of(tensors)
    conditions["hidden"].requires_grad_()
    loss = flow_matching_loss(
        network, last(tensors["input.x1"]), conditions, recorded_draws(tensors), RATES
    )
    loss.backward()
    torch.testing.assert_close(
        loss.detach(), tensors["output.loss"][0], rtol=spec["tolerance"]["loss_relative"], atol=0
    )
    close(conditions["hidden"].grad, tensors["grad.mu"], spec)
    assert len(wanted) >= 4
    for name, gradient in wanted.items():
        close(weights[name].grad, gradient, spec)
        assert (weights[name].grad - gradient).norm() < 1e-4 * gradient.norm()


def test_masked_losses_equal_the_recorded_ones(golden):
    tensors, spec = golden("cfm_loss")
    network, _ = reference_network(tensors, spec)
    arguments = (
        network,
        last(tensors["input.x1"]),
        conditions_of(tensors),
        recorded_draws(tensors),
        RATES,
    )
    mask = tensors["input.partial_mask"][:, 0]
    for name, m in {
        "loss_partial_mask": mask,
        "loss": torch.ones_like(mask),
        "loss_no_mask": None,
    }.items():
        torch.testing.assert_close(
            flow_matching_loss(*arguments, m),
            tensors[f"output.{name}"][0],
            rtol=spec["tolerance"]["loss_relative"],
            atol=0,
        )


def test_what_the_network_sees_equals_the_recorded_values(golden):
    tensors, spec = golden("cfm_loss")
    seen = {}

    def spy(noisy, timestep, **inputs):
        seen.update(inputs, noisy=noisy, timestep=timestep)
        return torch.zeros_like(noisy)

    flow_matching_loss(
        spy, last(tensors["input.x1"]), conditions_of(tensors), recorded_draws(tensors), RATES
    )
    for ours, theirs in {
        "timestep": tensors["mid.t"],
        "noisy": last(tensors["mid.y"]),
        "hidden": tensors["mid.mu_dropped"],
        "previous_patch": last(tensors["mid.cond_dropped"]),
    }.items():
        close(seen[ours], theirs, spec)
    close(
        target_velocity(last(tensors["input.x1"]), last(tensors["draw.z"])),
        last(tensors["mid.velocity_target"]),
        spec,
    )


@pytest.mark.parametrize(
    "name, options",
    [
        ("star", {}),
        ("plain", {"zero_star": False}),
        ("star_cfg1", {"guidance_scale": 1.0}),
        ("star_50", {"num_steps": 50}),
    ],
)
def test_sampler_equals_the_recorded_one_at_every_step(golden, name, options):
    tensors, spec = golden("cfm_sampler")
    c = spec["config"]
    network, _ = reference_network(tensors, spec)
    options = {
        "num_steps": c["n_timesteps"],
        "guidance_scale": c["cfg_value"],
        "sway": c["sway_sampling_coef"],
        **options,
    }
    states, times = [], []
    out = sample_flow(
        network,
        last(tensors["input.z"]),
        conditions_of(tensors),
        Sampling(**options),
        callback=lambda x, t: (states.append(x), times.append(t)),
    )
    close(out, last(tensors[f"output.{name}"]), spec)
    if f"trace.{name}_x" in tensors:
        close(torch.stack(states[:-1]), last(tensors[f"trace.{name}_x"]), spec)
        torch.testing.assert_close(
            torch.stack(times[:-1]), tensors[f"trace.{name}_t"], rtol=0, atol=1e-6
        )


def test_grid_equals_the_recorded_one(golden):
    tensors, spec = golden("cfm_sampler")
    for name in ("input.t_span", "input.t_span_50"):
        torch.testing.assert_close(
            time_grid(len(tensors[name]) - 1, spec["config"]["sway_sampling_coef"]),
            tensors[name],
            rtol=0,
            atol=1e-6,
        )


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.floats(-1, 1.75))
def test_grid_always_falls_from_one_to_zero(num_steps, sway):
    grid = time_grid(num_steps, sway)
    assert len(grid) == num_steps + 1 and grid[0] == 1 and grid[-1] == 0 and (grid.diff() < 0).all()


@pytest.mark.parametrize("solver, order", SOLVERS)
def test_solver_on_known_solutions(solver, order):
    x, even = (
        torch.tensor([[1.0, 2.0]], dtype=torch.float64),
        torch.linspace(1, 0, 9, dtype=torch.float64),
    )
    torch.testing.assert_close(
        solver(lambda x, t: torch.full_like(x, 3.0), x, even), x - 3
    )  # constant: exact
    if order == 2:
        torch.testing.assert_close(
            solver(lambda x, t: 2 * t + 0 * x, x, even), x - 1
        )  # linear in time: exact
    one = x[:, :1]
    for velocity, truth in [
        (lambda x, t: x**2, 0.5),
        (lambda x, t: 3 * t**2 + 0 * x, 0.0),
        (lambda x, t: x * t.cos(), math.exp(-math.sin(1))),
    ]:
        errors = [
            abs(
                solver(velocity, one, torch.linspace(1, 0, n + 1, dtype=torch.float64)).item()
                - truth
            )
            for n in (64, 128)
        ]
        assert abs(math.log2(errors[0] / errors[1]) - order) < 0.1


def test_sampling_one_gaussian_recovers_its_mean_and_spread():
    """Data N(2, 0.5^2) has a closed-form marginal velocity; the sampler must turn noise into it."""

    def velocity(x, timestep):
        t = timestep[:, None]
        variance = 0.25 * (1 - t) ** 2 + t**2
        return -2 + (t - 0.25 * (1 - t)) / variance * (x - 2 * (1 - t))

    noise = torch.randn(20_000, 1, generator=generator())
    out = sample_flow(velocity, noise, {}, Sampling(50, 1.0, False, 0.0), solver=heun)
    torch.testing.assert_close(out, 2 + 0.5 * noise, rtol=0, atol=0.01)


def test_regression_on_conditional_velocity_gives_the_marginal_one():
    """Two data points, one time: bin averages of z - x_0 equal the closed form (Bayes' rule)."""
    rng, t = generator(1), 0.5
    data = torch.where(torch.rand(400_000, generator=rng) < 0.5, -1.0, 1.0)[:, None].double()
    noise = torch.randn(data.shape, generator=rng, dtype=torch.float64)
    x, v = (
        interpolate(data, noise, torch.full((len(data),), t, dtype=torch.float64)),
        target_velocity(data, noise),
    )
    for place in (-0.6, 0.0, 0.3):
        near = (x - place).abs() < 0.02
        likely = torch.softmax(
            torch.tensor([-((place - (1 - t) * d) ** 2) / (2 * t * t) for d in (-1.0, 1.0)]), 0
        )
        exact = (place - (likely[1] - likely[0]).item()) / t
        assert (
            abs(v[near].mean().item() - exact)
            < 4 * v[near].std().item() / near.sum().item() ** 0.5 + 0.05
        )


def test_guidance_identities():
    c, u = torch.randn(2, 3, 4, 5, generator=generator())
    torch.testing.assert_close(guide(c, u, 0.0, zero_star=False), u)
    for star in (False, True):
        torch.testing.assert_close(guide(c, u, 1.0, star), c)
    base = guide(c, u, 0.0)
    torch.testing.assert_close(
        ((c - base) * u).sum((1, 2)), torch.zeros(3), rtol=0, atol=1e-4
    )  # the rest is perpendicular
    torch.testing.assert_close(
        guide(c, 7 * u, 2.0), guide(c, u, 2.0)
    )  # the length of u does not count
    assert torch.equal(guide(c, torch.zeros_like(u), 2.0), 2 * c)


def test_weight_zero_is_blind_only_without_zero_star():
    """Plain guidance of weight 0 is the unconditional velocity; zero-star scales it by c*, which
    the condition decides.
    """
    g = torch.Generator().manual_seed(5)
    c, other, u = torch.randn(3, 5, 4, 3, generator=g).unbind(0)
    assert torch.equal(guide(c, u, 0.0, False), guide(other, u, 0.0, False)) and torch.equal(
        guide(c, u, 0.0, False), u
    )
    star = guide(c, u, 0.0, True)
    assert not torch.allclose(star, guide(other, u, 0.0, True))
    scale = (c * u).sum((1, 2)) / u.square().sum((1, 2))
    torch.testing.assert_close(star, scale[:, None, None] * u)


def test_guided_velocity_is_two_calls_in_one():
    def net(x, timestep, hidden, who):
        return x * timestep[:, None] + hidden.tanh() + who

    x, hidden, who = torch.randn(3, 4, 2, generator=generator())
    t = torch.tensor(0.3)
    both = guided_velocity(net, {"hidden": hidden, "who": who}, Sampling(guidance_scale=2.5))(x, t)
    apart = guide(net(x, t.expand(4), hidden, who), net(x, t.expand(4), 0 * hidden, who), 2.5)
    torch.testing.assert_close(both, apart)


def test_zero_star_keeps_the_first_steps_still():
    assert [zero_star_steps(n) for n in (10, 48, 49, 50, 99, 100)] == [1, 1, 2, 2, 4, 4]
    calls = []

    def velocity(x, timestep):
        calls.append(timestep[0].item())
        return torch.ones_like(x)

    grid = time_grid(10)
    out = sample_flow(velocity, torch.zeros(2, 3), {}, Sampling(guidance_scale=1.0))
    assert calls == grid[1:-1].tolist()
    torch.testing.assert_close(out, -grid[1].expand(2, 3))


def test_k_draws_equal_repeated_rows():
    data, hidden = (
        torch.randn(3, 4, 2, generator=generator()),
        torch.randn(3, 5, generator=generator(1)),
    )
    mask = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    draws = draw_flow(data, {"hidden": 0.5}, generator(2), num_draws=3)

    def net(noisy, timestep, hidden):
        return noisy * timestep[:, None, None] + hidden.mean(1)[:, None, None]

    together = flow_matching_loss(net, data, {"hidden": hidden}, draws, {"hidden": 0.5}, mask)
    total = 0
    for row in range(3):
        for k in range(3):
            n = 3 * row + k
            t = torch.sigmoid(draws.timestep_normal[n] - 0.4)
            h = hidden[row] * (draws.drop_uniform["hidden"][n] > 0.5)
            x = (1 - t) * data[row] + t * draws.noise[n]
            total += (
                mask[row, :, None] * (x * t + h.mean() - (draws.noise[n] - data[row])) ** 2
            ).sum() / 2
    torch.testing.assert_close(together, total / (3 * mask.sum()))


def test_empty_mask_gives_zero_with_gradient():
    data, weight = torch.randn(2, 4, 3), torch.ones((), requires_grad=True)
    loss = flow_matching_loss(
        lambda noisy, timestep: weight * noisy,
        data,
        {},
        draw_flow(data, {}, generator()),
        {},
        torch.zeros(2, 4),
    )
    loss.backward()
    assert loss == 0 and weight.grad == 0


def test_draws_follow_their_seed_and_distribution():
    data = torch.zeros(20_000, 2)
    a, b, c = (draw_flow(data, RATES, generator(s)) for s in (0, 0, 1))
    assert torch.equal(a.noise, b.noise) and torch.equal(
        a.drop_uniform["hidden"], b.drop_uniform["hidden"]
    )
    assert not torch.equal(a.noise, c.noise)
    t = logit_normal_timesteps(a.timestep_normal)
    assert (
        abs(t.median() - torch.sigmoid(torch.tensor(-0.4))) < 0.01 and 0 < t.min() and t.max() < 1
    )
    kept = drop_condition(torch.ones(20_000, 1), a.drop_uniform["hidden"], 0.1)
    assert abs(kept.mean() - 0.9) < 0.01 and set(kept.unique().tolist()) == {0.0, 1.0}


def test_a_still_network_gives_the_noise_back_without_gradients():
    noise = torch.randn(2, 3, generator=generator())
    plain = Sampling(guidance_scale=1.0, zero_star=False)
    assert torch.equal(sample_flow(lambda x, timestep: 0 * x, noise, {}, plain), noise)
    assert (
        sample_flow(lambda x, timestep: x, noise.requires_grad_(), {}, plain).requires_grad is False
    )


def test_a_network_may_work_ahead():
    """`bind` is asked once for all steps, with both branches of guidance as one batch."""

    class Ahead:
        bound = 0

        def bind(self, conditions, times):
            self.bound += 1
            assert (
                len(conditions["hidden"]) == 4
                and not conditions["hidden"][2:].any()
                and len(times) == 10
            )
            return lambda x, t: x * t + conditions["hidden"]

    noise, hidden = torch.randn(2, 2, 3, generator=generator())
    network = Ahead()
    made = sample_flow(network, noise, {"hidden": hidden})
    plain = sample_flow(
        lambda x, timestep, hidden: x * timestep[:, None] + hidden, noise, {"hidden": hidden}
    )
    torch.testing.assert_close(made, plain)
    assert network.bound == 1


def test_each_stream_has_its_own_projection():
    c, u = torch.randn(2, 3, 2, 4, 5, generator=generator())
    together = guide(c, u, 2.0, batch_dims=2)
    apart = torch.stack([guide(c[:, i], u[:, i], 2.0) for i in range(2)], dim=1)
    torch.testing.assert_close(together, apart)


def test_half_precision_data_keeps_its_dtype_and_a_float_loss():
    data = torch.randn(4, 4, 3, generator=generator()).bfloat16()
    seen = []
    loss = flow_matching_loss(
        lambda noisy, timestep: seen.append((noisy.dtype, timestep.dtype)) or noisy,
        data,
        {},
        draw_flow(data, {}, generator()),
        {},
    )
    assert seen == [(torch.bfloat16, torch.float32)] and loss.dtype == torch.float32


X = torch.zeros(2, 4, 3)
DRAWS = draw_flow(X, {}, generator())


def net(noisy, timestep, **conditions):
    raise AssertionError("bad input must be refused before the network is called")


@pytest.mark.parametrize(
    "call, word",
    [
        (lambda: time_grid(0), "num_steps"),
        (lambda: time_grid(2.5), "num_steps"),
        (lambda: time_grid(10, 3.0), "sway"),
        (lambda: time_grid(10, math.nan), "sway"),
        (lambda: Sampling(guidance_scale=-1.0), "guidance_scale"),
        (lambda: Sampling(guidance_scale=math.nan), "guidance_scale"),
        (lambda: Sampling(num_steps=0), "num_steps"),
        (lambda: Sampling(num_steps=1), "zero_star"),
        (lambda: Sampling(sway=2.0), "sway"),
        (lambda: flow_matching_loss(net, X[:, :3], {}, DRAWS, {}), "draws"),
        (lambda: flow_matching_loss(net, X[:0], {}, DRAWS, {}), "draws"),
    ],
)
def test_bad_settings_are_refused_by_name_before_any_work(call, word):
    with pytest.raises(ValueError, match=word):
        call()
