"""Time of one head evaluation, and of one patch (10 Euler steps with guidance), at the small
size on random weights.

python benchmarks/bench_head.py
"""

import time

import torch

from talker_t2av.model.flow import Sampling, guide, sample_flow, time_grid, zero_star_steps
from talker_t2av.model.head import DiffusionHead, HeadConfig

CONFIG = HeadConfig(
    latent_dim=32,
    global_condition_dim=256,
    hidden_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
)


def milliseconds(call, seconds: float = 2.0) -> float:
    """Median time of `call`, repeated for about `seconds` after a warm-up."""
    call(), call()
    spent, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        spent.append(time.perf_counter() - start)
    return 1e3 * sorted(spent)[len(spent) // 2]


def inputs(rows: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    rng, c = torch.Generator().manual_seed(0), CONFIG
    shapes = {
        "hidden": (c.hidden_size,),
        "global_condition": (c.global_condition_dim,),
        "previous_patch": (c.patch_size, c.latent_dim),
    }
    conditions = {name: torch.randn(rows, *shape, generator=rng) for name, shape in shapes.items()}
    return torch.randn(rows, c.patch_size, c.latent_dim, generator=rng), conditions


@torch.no_grad()
def two_calls(head, x, conditions):
    """The same guided sampling with one call per branch: what the doubled
    batch is compared with.
    """
    grid = time_grid(10)[zero_star_steps(10) :]
    dropped = {**conditions, "hidden": torch.zeros_like(conditions["hidden"])}
    for t, t_next in zip(grid[:-1], grid[1:]):
        times = t.expand(len(x))
        x = x - (t - t_next) * guide(head(x, times, **conditions), head(x, times, **dropped), 2.0)
    return x


def run() -> list[dict]:
    torch.manual_seed(0)
    head, rows_out = DiffusionHead(CONFIG).requires_grad_(False).eval(), []
    note = f"width 256, 4 layers, float32, {torch.get_num_threads()} threads, random weights"

    def add(name, value, unit="ms", more=""):
        rows_out.append({"name": name, "value": round(value, 3), "unit": unit, "note": note + more})

    for rows in (1, 16):
        x, conditions = inputs(rows)
        t = torch.full((rows,), 0.5)
        torch.testing.assert_close(
            two_calls(head, x, conditions), sample_flow(head, x, conditions), rtol=1e-4, atol=1e-4
        )
        add(f"head, one evaluation, {rows} rows", milliseconds(lambda: head(x, t, **conditions)))
        add(
            f"head, time embeddings of it, {rows} rows",
            milliseconds(
                lambda: head.time_embedding(t) + head.delta_embedding(t.new_zeros(1)), 0.5
            ),
        )
        add(
            f"head, patch without guidance, {rows} rows",
            milliseconds(lambda: sample_flow(head, x, conditions, Sampling(guidance_scale=1.0))),
        )
        patch = milliseconds(lambda: sample_flow(head, x, conditions))
        add(
            f"head, patch with guidance, {rows} rows",
            patch,
            more="; 10 Euler steps, both branches in one batch",
        )
        add(
            f"head, patch with guidance, two calls, {rows} rows",
            milliseconds(lambda: two_calls(head, x, conditions)),
        )
        add(
            f"head, seconds of speech per second, {rows} rows",
            rows * 160 / patch,
            "x",
            "; one head, a patch is 160 ms",
        )
    return rows_out


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']:50s} {row['value']:>10.3f} {row['unit']:3s} {row['note']}")
