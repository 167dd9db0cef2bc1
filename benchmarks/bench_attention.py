"""Attention by its two kernels, forward and backward, at the lengths that the model has."""

import json
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from talker_t2av.common.measuring import fastest_in_turns
from talker_t2av.model.layers import attention

CASES = [  # sequences, query heads, key heads, tokens, head_dim, causal, what has this shape
    (600, 8, 8, 5, 32, False, "patch encoder"),
    (600, 8, 8, 10, 32, False, "head"),
    (200, 8, 8, 16, 32, False, "16 tokens"),
    (32, 8, 4, 32, 32, True, "backbone, 32 tokens"),
    (32, 8, 4, 64, 32, True, "backbone, 64 tokens"),
    (16, 8, 4, 128, 32, True, "backbone, 128 tokens"),
    (8, 8, 4, 256, 32, True, "backbone, 256 tokens"),
]
REPEATS = 9


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, is_causal=mask is not None, enable_gqa=grouped)


def step(kernel: Callable, qkv: Tensor, heads: tuple, mask: Tensor | None) -> Callable:
    """One forward and backward pass from queries, keys and values as the layer makes them."""
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(*qkv.shape[:2], heads[0], qkv.shape[-1], generator=generator).to(qkv)

    def run() -> None:
        q, k, v = rearrange(qkv, "b s h c -> b h s c").split(heads, dim=1)
        out = rearrange(kernel(q, k, v, mask), "b h s c -> b s h c")
        torch.autograd.grad(out, qkv, upstream)

    return run


def run() -> list[dict]:
    rows = []
    for B, H, H_kv, S, head_dim, causal, note in CASES:
        for dtype in (torch.float32, torch.bfloat16):
            heads = (H, H_kv, H_kv)
            generator = torch.Generator().manual_seed(0)
            qkv = torch.randn(B, S, sum(heads), head_dim, generator=generator)
            qkv = qkv.to(dtype).requires_grad_()
            mask = torch.ones(S, S, dtype=torch.bool).tril() if causal else None
            kernels = {"plain": attention, "fused": fused}
            steps = [step(kernel, qkv, heads, mask) for kernel in kernels.values()]
            for name, seconds in zip(kernels, fastest_in_turns(*steps, repeats=REPEATS)):
                rows.append(
                    {
                        "name": f"attention {name} S={S} {str(dtype)[6:]}",
                        "value": round(1e3 * seconds, 3),
                        "unit": "ms",
                        "note": f"forward + backward, fastest of {REPEATS}; {note}: {B} x {S} "
                        f"tokens, {H}/{H_kv} heads of {head_dim}, {str(dtype)[6:]}, "
                        f"{torch.get_num_threads()} threads",
                    }
                )
    return rows


if __name__ == "__main__":
    for row in run():
        print(json.dumps(row))
