"""The layers against independent formulas, on every path, and against the stored vectors of
the released stacks.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from talker_t2av.model import layers
from talker_t2av.model.layers import (
    RELEASED_STACK_NAMES,
    Attention,
    RMSNorm,
    Rope,
    TransformerConfig,
    TransformerStack,
    apply_rope,
    attention,
    fast_attention,
    prefer_fused,
    rename,
    rope_table,
)

SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4)


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def reference_attention(q, k, v, mask):
    """In float64, keys repeated for their query heads."""
    q, k, v = q.double(), k.double(), v.double()
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_rms_norm_is_its_formula(dtype, scale):
    norm = RMSNorm(48)
    norm.weight.data = noise(48, seed=1)
    x = (scale * noise(7, 5, 48)).to(dtype)
    expected = (
        x.double()
        / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
        * norm.weight.double()
    )
    out = norm(x)
    assert out.dtype == dtype
    torch.testing.assert_close(
        out.double(),
        expected,
        **(
            {"rtol": 2e-2, "atol": 2e-2}
            if dtype == torch.bfloat16
            else {"rtol": 1e-5, "atol": 1e-6}
        ),
    )


def test_rms_norm_warns_of_no_slow_path(recwarn):
    RMSNorm(48)(noise(4, 48).bfloat16())
    assert not [w for w in recwarn if "Cannot dispatch to fused" in str(w.message)]


@pytest.mark.parametrize("layout", ["rotate_half", "interleaved"])
def test_rope_turns_each_pair_by_its_angle(layout):
    x, table = noise(2, 3, 6, 8), rope_table(6, 8, theta=100.0)
    out = apply_rope(x, table, layout)
    for position in range(6):
        for pair in range(4):
            a, b = (pair, pair + 4) if layout == "rotate_half" else (2 * pair, 2 * pair + 1)
            angle = position * 100.0 ** (-2 * pair / 8)
            c, s = math.cos(angle), math.sin(angle)
            x_a, x_b = x[:, :, position, a], x[:, :, position, b]
            torch.testing.assert_close(out[:, :, position, a], c * x_a - s * x_b)
            torch.testing.assert_close(out[:, :, position, b], s * x_a + c * x_b)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 400),
    st.integers(0, 400),
    st.integers(0, 400),
    st.sampled_from(["rotate_half", "interleaved"]),
)
def test_rope_products_know_only_distances(m, n, shift, layout):
    q, k, table = noise(1, 1, 1, 16, seed=1), noise(1, 1, 1, 16, seed=2), rope_table(801, 16)

    def dot(i, j):
        query = apply_rope(q, table[i : i + 1], layout)
        return float((query * apply_rope(k, table[j : j + 1], layout)).sum())

    assert dot(m, n) == pytest.approx(dot(m + shift, n + shift), abs=2e-3)


def test_rope_takes_positions_per_row():
    x, rope = noise(2, 3, 4, 8), Rope(32, 8, 1e4)
    positions = torch.tensor([[0, 1, 2, 3], [7, 8, 20, 0]])
    for layout in ("rotate_half", "interleaved"):
        together = apply_rope(x, rope(4, positions), layout)
        for row in range(2):
            torch.testing.assert_close(
                together[row : row + 1],
                apply_rope(x[row : row + 1], rope.table[positions[row]], layout),
            )


def test_rope_table_survives_casts_and_meta():
    stack = TransformerStack(TransformerConfig(**SMALL))
    table = stack.rope.table.clone()
    assert not [name for name in stack.state_dict() if "rope" in name]
    assert torch.equal(stack.to(torch.bfloat16).rope.table, table)
    with torch.device("meta"):
        unborn = TransformerStack(TransformerConfig(**SMALL))
    assert torch.equal(unborn.to_empty(device="cpu").rope.table, table)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["none", "causal", "mask"])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("n_tokens", [1, 5, 16, 64, 65, 80])
def test_attention_agrees_on_both_kernels(n_tokens, heads, kind, dtype, monkeypatch):
    shapes = [(3, h, n_tokens, 8) for h in (heads[0], heads[1], heads[1])]
    q, k, v = (noise(*shape, seed=i).to(dtype) for i, shape in enumerate(shapes))
    mask = torch.ones(n_tokens, n_tokens, dtype=torch.bool)
    if kind == "causal":
        mask = mask.tril()
    elif kind == "mask":
        mask = (noise(3, 1, n_tokens, n_tokens, seed=9) > 0) | torch.eye(n_tokens, dtype=torch.bool)
    arguments = {"none": {}, "causal": {"causal": True}, "mask": {"mask": mask}}[kind]
    expected = reference_attention(q, k, v, mask)
    close = {"rtol": 1e-5, "atol": 2e-6} if dtype == torch.float32 else {"rtol": 0, "atol": 3e-2}
    for fused in (True, False):
        monkeypatch.setattr(layers, "prefer_fused", lambda k, fused=fused: fused)
        result = fast_attention(q, k, v, **arguments)
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), expected, **close)


def test_both_kernels_have_the_same_gradients(monkeypatch):
    q, k, v = (noise(2, h, 12, 8, seed=i).requires_grad_() for i, h in enumerate((4, 2, 2)))
    upstream = noise(2, 4, 12, 8, seed=5)
    gradients = []
    for fused in (True, False):
        monkeypatch.setattr(layers, "prefer_fused", lambda k, fused=fused: fused)
        out = fast_attention(q, k, v, causal=True)
        gradients.append(torch.autograd.grad(out, (q, k, v), upstream))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_the_kernel_is_chosen_by_the_number_of_keys(monkeypatch):
    calls = []

    def counted(q, k, v, mask=None):
        calls.append(k.shape[2])
        return attention(q, k, v, mask)

    monkeypatch.setattr(layers, "attention", counted)
    for dtype, limit in layers.WRITTEN_OUT_UP_TO.items():
        for n_tokens in (limit, limit + 1):
            q = noise(1, 2, n_tokens, 8).to(dtype)
            fast_attention(q, q, q)
            assert prefer_fused(q) == (n_tokens > limit)
        assert calls.pop() == limit and not calls


@pytest.mark.parametrize(
    "config",
    [
        dict(),
        dict(
            causal=True,
            qk_norm=True,
            fused_qkv=False,
            num_key_value_heads=2,
            head_dim=16,
            rope_layout="rotate_half",
        ),
    ],
)
def test_a_bfloat16_autocast_step_trains_every_parameter(config):
    torch.manual_seed(0)
    stack = TransformerStack(TransformerConfig(**SMALL, **config))
    with torch.autocast("cpu", torch.bfloat16):
        out = stack(noise(4, 10, 32))
    out.float().square().sum().backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 and p.grad.isfinite().all()
        for p in stack.parameters()
    )
    torch.testing.assert_close(out.float(), stack(noise(4, 10, 32)), rtol=0.1, atol=0.1)


def test_causal_stack_ignores_the_future_and_the_other_one_does_not():
    for causal in (True, False):
        torch.manual_seed(0)
        stack = TransformerStack(TransformerConfig(**SMALL, causal=causal)).eval()
        x = noise(1, 9, 32)
        changed = x.clone()
        changed[:, 6] += 1
        moved = (stack(x) - stack(changed)).abs().amax((0, 2)).detach()
        assert (moved[6:] > 1e-4).all()
        assert torch.equal(moved[:6] > 1e-6, torch.full((6,), not causal))


def test_stack_without_rope_would_be_blind_to_order():
    torch.manual_seed(0)
    stack = TransformerStack(TransformerConfig(**SMALL)).eval()
    x, shuffle = noise(1, 6, 32), torch.tensor([3, 1, 5, 0, 2, 4])
    same_place = torch.zeros(1, 6, dtype=torch.long)
    torch.testing.assert_close(
        stack(x[:, shuffle], positions=same_place), stack(x, positions=same_place)[:, shuffle]
    )
    assert (stack(x[:, shuffle]) - stack(x)[:, shuffle]).abs().max() > 1e-3


def test_released_stack_matches_stored_vectors(golden):
    tensors, spec = golden("patch_encoder")
    sizes, weights = (
        spec["config"],
        {n.removeprefix("weights."): t for n, t in tensors.items() if n.startswith("weights.")},
    )
    stack = TransformerStack(
        TransformerConfig(
            hidden_size=sizes["hidden_size"],
            num_hidden_layers=sizes["n_layer"],
            num_attention_heads=sizes["n_head"],
        )
    )
    stack.load_state_dict(
        {
            rename(n, RELEASED_STACK_NAMES): t
            for n, t in weights.items()
            if n.startswith(("blocks.", "norm."))
        }
    )
    rows = min(len(weights["rope.w"]), len(stack.rope.table))
    torch.testing.assert_close(stack.rope.table[:rows], weights["rope.w"][:rows], rtol=0, atol=1e-6)
    for kind in ("", "_small"):
        frames = F.linear(
            tensors[f"input.x{kind}"], weights["input_proj.weight"], weights["input_proj.bias"]
        )
        tokens = torch.cat([weights["cls_token"].expand(*frames.shape[:2], 1, -1), frames], dim=2)
        with torch.no_grad():
            out = stack(tokens.flatten(0, 1))[:, 0].view(*frames.shape[:2], -1)
        assert (out - tensors[f"output.y{kind}"]).abs().max() < spec["tolerance"]["max_abs"]


def test_rename_goes_both_ways():
    for fused in (True, False):
        for name in TransformerStack(TransformerConfig(**SMALL, fused_qkv=fused)).state_dict():
            theirs = rename(name, [(ours, theirs) for theirs, ours in RELEASED_STACK_NAMES])
            assert rename(theirs, RELEASED_STACK_NAMES) == name


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict(hidden_size=0), "hidden_size"),
        (dict(num_hidden_layers=1.5), "num_hidden_layers"),
        (dict(num_attention_heads=5), "head_dim"),
        (dict(num_key_value_heads=3), "num_key_value_heads"),
        (dict(head_dim=7), "head_dim"),
        (dict(intermediate_size=-1), "intermediate_size"),
        (dict(rope_layout="both"), "rope_layout"),
    ],
)
def test_config_names_what_is_wrong(changes, named):
    with pytest.raises(ValueError, match=named):
        TransformerConfig(**{**SMALL, **changes})


def test_bad_inputs_are_refused():
    with pytest.raises(KeyError, match="both"):
        apply_rope(noise(1, 4, 6, 8), rope_table(6, 8), "both")
    with pytest.raises(ValueError, match="even"):
        rope_table(4, 7)
    with pytest.raises(ValueError, match="max_position_embeddings"):
        Rope(4, 8, 1e4)(5)
    with pytest.raises(ValueError, match="max_position_embeddings"):
        TransformerStack(TransformerConfig(**SMALL, max_position_embeddings=4))(noise(1, 5, 32))
    with pytest.raises(RuntimeError):
        TransformerStack(TransformerConfig(**SMALL))(noise(2, 3, 31))


def test_no_projection_has_a_bias():
    layer = Attention(TransformerConfig(**SMALL))
    assert not any("bias" in name for name, _ in layer.named_parameters())
