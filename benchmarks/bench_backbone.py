"""The backbone: what a cache saves, a training step, and one generated token at the
paper's size.
"""

import json

import torch
from torch import nn

from talker_t2av.common.measuring import fastest
from talker_t2av.model.backbone import Backbone, BackboneConfig, KVCache
from talker_t2av.model.layers import Rope

SMALL = BackboneConfig(
    vocab_size=512,
    hidden_size=256,
    num_hidden_layers=6,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=32,
    intermediate_size=768,
    max_position_embeddings=1024,
)


def best_ms(function, repeats=5) -> float:
    "Milliseconds, the shortest of several calls."
    return 1e3 * fastest(function, repeats)


def row(name, value, unit, note) -> dict:
    return {
        "name": name,
        "value": round(value, 3),
        "unit": unit,
        "note": f"{note}; {torch.get_num_threads()} threads",
    }


@torch.no_grad()
def decode(backbone, x, cached) -> None:
    "Write the tokens of x one by one."
    cache = KVCache(backbone.config, len(x), x.shape[1]) if cached else None
    for n in range(x.shape[1]):
        if cached:
            backbone(inputs_embeds=x[:, n : n + 1], kv_cache=cache)
        else:
            backbone(inputs_embeds=x[:, : n + 1])


def training_rows(backbone) -> list[dict]:
    "One training step on 32 samples of 20 to 100 tokens, padded."
    lengths = torch.randint(20, 101, (32,), generator=torch.Generator().manual_seed(0))
    x = torch.randn(32, int(lengths.max()), 256)

    def step():
        backbone.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            hidden = backbone(inputs_embeds=x, lengths=lengths)
        hidden.float().square().mean().backward()

    note = (
        "small backbone, forward + backward, bfloat16 autocast, 32 samples, "
        f"{int(lengths.sum())} real tokens, {x[..., 0].numel()} computed"
    )
    return [row("backbone step padded", best_ms(step, 3), "ms", note)]


def paper_rows(dtype) -> list[dict]:
    "One token at the size of Qwen3-0.6B (the embedding is not read: a token comes in as a vector)."
    config = BackboneConfig(vocab_size=1, max_position_embeddings=1024)
    with torch.device("meta"):
        backbone = Backbone(config).to(dtype).eval()
    backbone.to_empty(device="cpu")
    for name, p in backbone.named_parameters():
        nn.init.constant_(p, 1.0) if "norm" in name else nn.init.uniform_(p, -0.03, 0.03)
    assert all(
        torch.isfinite(part.table).all() for part in backbone.modules() if isinstance(part, Rope)
    )
    cache = KVCache(config, 1, 256, dtype)
    with torch.no_grad():
        backbone(inputs_embeds=torch.randn(1, 60, 1024, dtype=dtype), kv_cache=cache)
        token = torch.randn(1, 1, 1024, dtype=dtype)
        ms = best_ms(lambda: backbone(inputs_embeds=token, kv_cache=cache), 8)
    read = sum(p.nbytes for p in backbone.stack.parameters())
    note = (
        f"Qwen3-0.6B shape, random weights, {str(dtype)[6:]}, cache of 256, {read / 1e9:.2f} "
        "GB of weights read"
    )
    return [
        row(f"backbone token paper {str(dtype)[6:]}", ms, "ms", note),
        row(f"backbone token paper {str(dtype)[6:]} bandwidth", read / ms / 1e6, "GB/s", note),
    ]


def run() -> list[dict]:
    torch.manual_seed(0)
    backbone = Backbone(SMALL).eval()
    x = torch.randn(1, 96, 256)
    rows = [
        row(
            f"backbone decode {name}",
            best_ms(lambda c=c: decode(backbone, x, c), 2) / 96,
            "ms/token",
            "small backbone, float32, 96 tokens, 1 row",
        )
        for name, c in (("cached", True), ("recomputed", False))
    ]
    rows += training_rows(backbone.train())
    for dtype in (torch.float32, torch.bfloat16):
        rows += paper_rows(dtype)
    return rows


if __name__ == "__main__":
    for line in run():
        print(json.dumps(line))
