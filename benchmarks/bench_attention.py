"""Attention on its two paths, forward and backward, at the sequence lengths that the model has."""

import json
import statistics
import time

import torch
import torch.nn.functional as F

from talker_t2av.model.layers import plain_attention

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


def fused(q, k, v, mask):
    return F.scaled_dot_product_attention(
        q, k, v, is_causal=mask is not None, enable_gqa=q.shape[1] != k.shape[1]
    )


def take_turns(functions) -> list[float]:
    """Median of the faster half of the times of each function, in milliseconds; they alternate,
    so that drift hits all alike.
    """
    times = [[] for _ in functions]
    for _ in range(REPEATS):
        for function, record in zip(functions, times):
            start = time.perf_counter()
            function()
            record.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(sorted(record)[: (REPEATS + 1) // 2]) for record in times]


def run() -> list[dict]:
    rows = []
    for B, H, H_kv, S, C, causal, note in CASES:
        for dtype in (torch.float32, torch.bfloat16):
            generator = torch.Generator().manual_seed(0)
            qkv = torch.randn(B, S, H + 2 * H_kv, C, generator=generator).to(dtype).requires_grad_()
            upstream = torch.randn(B, S, H * C, generator=generator).to(dtype)
            mask = torch.ones(S, S, dtype=torch.bool).tril() if causal else None

            def step(function):
                # as the layer makes them
                q, k, v = qkv.transpose(1, 2).split((H, H_kv, H_kv), dim=1)
                torch.autograd.grad(
                    function(q, k, v, mask).transpose(1, 2).flatten(2), qkv, upstream
                )

            paths = {"plain": plain_attention, "fused": fused}
            shape = (
                f"{note}: {B} x {S} tokens, {H}/{H_kv} heads of {C}, {str(dtype)[6:]}, "
                f"{torch.get_num_threads()} threads"
            )
            for (name, _), value in zip(
                paths.items(), take_turns([lambda f=f: step(f) for f in paths.values()])
            ):
                rows.append(
                    {
                        "name": f"attention {name} S={S} {str(dtype)[6:]}",
                        "value": round(value, 3),
                        "unit": "ms",
                        "note": f"forward + backward; {shape}",
                    }
                )
    return rows


if __name__ == "__main__":
    for row in run():
        print(json.dumps(row))
