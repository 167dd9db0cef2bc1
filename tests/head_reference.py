"""A second, plain writing of the diffusion head, straight from its description, with the
released tensor names.

Channels first at the boundary, no modules, rotary embedding by complex numbers: as unlike
`talker_t2av.model.head` as can be.
"""

import math

import torch
import torch.nn.functional as F


def sinusoid(t, width):
    half = width // 2
    angle = torch.stack([1000 * t * 10000 ** (-k / (half - 1)) for k in range(half)], dim=1)
    return torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)


def embed_time(w, name, t, width):
    h = F.linear(sinusoid(t, width), w[f"{name}.linear_1.weight"], w[f"{name}.linear_1.bias"])
    return F.linear(F.silu(h), w[f"{name}.linear_2.weight"], w[f"{name}.linear_2.bias"])


def norm(x, scale):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * scale


def rotate(x):  # (B, heads, S, head_dim), adjacent pairs as complex numbers
    positions, half = x.shape[-2], x.shape[-1] // 2
    angle = torch.arange(positions)[:, None] * 10000.0 ** (-torch.arange(half) / half)
    z = torch.view_as_complex(x.unflatten(-1, (half, 2)).contiguous()) * torch.polar(
        torch.ones_like(angle), angle
    )
    return torch.view_as_real(z).flatten(-2)


def block(w, prefix, x, heads):
    y = norm(x, w[f"{prefix}.norm1.scale"])
    q, k, v = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2)
        for part in F.linear(y, w[f"{prefix}.attn.qkv.weight"]).chunk(3, -1)
    )
    score = rotate(q) @ rotate(k).transpose(-1, -2) / math.sqrt(q.shape[-1])
    x = x + F.linear(
        (torch.softmax(score, -1) @ v).transpose(1, 2).flatten(2), w[f"{prefix}.attn.proj.weight"]
    )
    y = norm(x, w[f"{prefix}.norm2.scale"])
    inner = F.silu(F.linear(y, w[f"{prefix}.mlp.fc1.weight"])) * F.linear(
        y, w[f"{prefix}.mlp.fc2.weight"]
    )
    return x + F.linear(inner, w[f"{prefix}.mlp.proj.weight"])


def reference_velocity(w, n_layer, n_head, x, mu, t, cond, global_cond, dt=None):
    """Velocity (N, C, P) of frames x (N, C, P) with the released weights `w` (names
    without `estimator.`).
    """
    width = mu.shape[-1]
    time = embed_time(w, "time_mlp", t, width) + embed_time(
        w, "delta_time_mlp", torch.zeros_like(t) if dt is None else dt, width
    )
    first = (mu + time)[:, None]
    who = F.linear(global_cond, w["global_cond_proj.weight"], w["global_cond_proj.bias"])[:, None]
    before = F.linear(cond.transpose(1, 2), w["cond_proj.weight"], w["cond_proj.bias"])
    now = F.linear(x.transpose(1, 2), w["in_proj.weight"], w["in_proj.bias"])
    h = F.linear(
        torch.cat([first, who, before, now], 1),
        w["decoder.input_proj.weight"],
        w["decoder.input_proj.bias"],
    )
    for layer in range(n_layer):
        h = block(w, f"decoder.blocks.{layer}", h, n_head)
    out = F.linear(norm(h, w["decoder.norm.scale"]), w["out_proj.weight"], w["out_proj.bias"])
    return out[:, -x.shape[2] :].transpose(1, 2)
