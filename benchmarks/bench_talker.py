"""The talker: a training step against a plain loop, and one generation step at the paper's size.

Random weights and latents, CPU, 2 threads, one process. The loop runs the same modules sample by
sample, patch by patch and draw by draw, as one would first write it; both give the same losses,
which is checked.
"""

import torch

from talker_t2av.common.measuring import fastest, fastest_in_turns
from talker_t2av.model.flow import FlowDraws, Sampling, draw_flow, flow_matching_loss
from talker_t2av.model.patches import StreamPatches
from talker_t2av.model.sequence import TalkerSample, make_batch, talking_sample
from talker_t2av.model.stop import stop_labels, stop_loss
from talker_t2av.model.talker import Talker
from talker_t2av.model.text import load_tokenizer

RATES = {"hidden": 0.1, "previous_patch": 0.05}


def clips(config, number: int, seconds: float, generator) -> list[TalkerSample]:
    """Random clips with video; every fourth is speech only."""
    frames = round(seconds * config.frame_rate / config.patch_size) * config.patch_size
    random = lambda *shape: torch.randn(*shape, generator=generator)
    audio_dim, motion_dim = (config.streams[name].latent_dim for name in ("audio", "motion"))
    return [
        talking_sample(
            f"this is sentence number {i}",
            random(frames, audio_dim),
            random(frames, motion_dim) if i % 4 else None,
            random(config.streams["audio"].condition_dim),
        )
        for i in range(number)
    ]


def loop_sequence(talker: Talker, batch, b: int):
    """Tokens (1, T, D) of one sample, one patch of one stream at a time."""
    tokens = []
    for i in range(int(batch.num_patches[b])):
        token = 0
        for name, stream in batch.streams.items():
            patches = stream.patches[b, i][None, None] if stream.num_frames[b] else None
            token = token + talker.streams[name](StreamPatches(patches=patches))[:, 0]
        tokens.append(token)
    text = talker.backbone.embed_tokens(batch.input_ids[b : b + 1, : int(batch.num_tokens[b])])
    tag = talker.task_embedding(batch.task[b : b + 1])[:, None]
    first = int(batch.first_patch[b])
    after = text[:, first + len(tokens) :]
    return torch.cat([tag, text[:, :first], torch.stack(tokens, 1), after], 1)


def loop_step(talker: Talker, batch, draws: dict[str, FlowDraws]):
    """Losses of a batch, one sample, one patch and one draw at a time."""
    c = talker.config
    row = dict.fromkeys(c.streams, 0)  # of the draws
    losses, logits, labels = {name: [] for name in c.streams}, [], []
    first = batch.first_patch + 1
    positions = batch.input_ids.shape[1] + 1
    everyone, weight = stop_labels(first, batch.num_patches, positions, c.patch_size, c.frame_rate)
    for b in range(len(batch)):
        hidden = talker.backbone(inputs_embeds=loop_sequence(talker, batch, b))
        logits.append(talker.stop(hidden)[0])
        labels.append(everyone[b, : hidden.shape[1]])
        for name, stream in batch.streams.items():
            for i in range(int(stream.is_target[b].sum())):
                patch = stream.patches[b, i][None]
                conditions = {
                    "hidden": hidden[:, first[b] + i - 1],
                    "previous_patch": stream.patches[b, i - 1][None] if i else 0 * patch,
                    "global_condition": stream.condition[b][None],
                }
                for _ in range(c.num_draws):
                    at = slice(row[name], row[name] + 1)
                    one = FlowDraws(
                        draws[name].noise[at],
                        draws[name].timestep_normal[at],
                        {key: value[at] for key, value in draws[name].drop_uniform.items()},
                    )
                    head = talker.heads[name]
                    losses[name].append(flow_matching_loss(head, patch, conditions, one, RATES))
                    row[name] += 1
    total = c.stop_loss_weight * stop_loss(
        torch.cat(logits), torch.cat(labels), weight, c.stop_positive_weight
    )
    for name, stream in c.streams.items():
        total = total + stream.loss_weight * torch.stack(losses[name]).mean()
    return total


def bench_training(number: int = 4, seconds: float = 2.0) -> list[dict]:
    """Ours against the loop, on a batch that the loop gets through in reasonable time; and ours
    alone on a usual one.
    """
    torch.manual_seed(0)
    talker, generator = Talker("small"), torch.Generator().manual_seed(0)
    batch = make_batch(
        clips(talker.config, number, seconds, generator), load_tokenizer("small"), talker.config
    )
    draws = {
        name: draw_flow(stream.targets[stream.is_target], RATES, generator, talker.config.num_draws)
        for name, stream in batch.streams.items()
    }
    found = {}

    def run(name, function):
        talker.zero_grad()
        loss = function()
        loss.backward()
        found[name] = loss.item(), talker.streams["audio"].projector.weight.grad.norm().item()

    ours = lambda: run("ours", lambda: talker(batch, draws=draws).loss)
    loop = lambda: run("loop", lambda: loop_step(talker, batch, draws))
    fast, slow = fastest_in_turns(ours, loop, repeats=3)
    for mine, theirs in zip(found["ours"], found["loop"]):
        assert abs(mine / theirs - 1) < 1e-4, f"not the same step: {found}"
    usual = make_batch(
        clips(talker.config, 16, 3.0, generator), load_tokenizer("small"), talker.config
    )
    sixteen = fastest(lambda: talker(usual, generator).loss.backward(), 3)
    what = (
        f"small preset, {number} clips of {seconds:g} s, K = {talker.config.num_draws}, forward "
        "and backward, float32"
    )
    return [
        {"name": "talker: training step", "value": fast, "unit": "s", "note": f"{what}; best of 3"},
        {
            "name": "talker: training step, plain loop",
            "value": slow,
            "unit": "s",
            "note": (
                "same modules and losses (relative difference "
                f"{abs(found['ours'][0] / found['loop'][0] - 1):.0e}); 1 run"
            ),
        },
        {
            "name": "talker: training step, 16 clips of 3 s",
            "value": sixteen,
            "unit": "s",
            "note": "small preset, K = 1, forward and backward, float32; best of 3",
        },
        {
            "name": "talker: loop / ours",
            "value": slow / fast,
            "unit": "times",
            "note": "at least 2 expected",
        },
    ]


def memory_bandwidth() -> float:
    """Bytes per second that a sum over 1 GB of float32 reads: best of 5."""
    data = torch.ones(256 * 2**20)
    return data.nbytes / fastest(data.sum, 5)


def paper_talker() -> Talker:
    """The paper preset with random weights, allocated once, in float32."""
    with torch.device("meta"):
        talker = Talker("paper")
    talker = talker.to_empty(device="cpu").eval()
    with torch.no_grad():
        for name, weight in talker.named_parameters():
            weight.fill_(1.0) if weight.ndim == 1 and "norm" in name else weight.uniform_(
                -0.03, 0.03
            )
    return talker


def weights_read(talker: Talker, evaluations: int) -> int:
    """Bytes of weights that one generation step goes through: backbone, both heads at each
    evaluation, patch encoders, stop.
    """
    size = lambda module: sum(p.nbytes for p in module.parameters())
    once = size(talker.backbone.stack) + size(talker.streams) + size(talker.stop)
    return once + evaluations * size(talker.heads)


def bench_paper_step(patches: int = 3) -> list[dict]:
    talker, rows = paper_talker(), []
    bandwidth = memory_bandwidth()
    rows.append(
        {
            "name": "memory bandwidth",
            "value": bandwidth / 1e9,
            "unit": "GB/s",
            "note": "sum over 1 GB, best of 5, same process",
        }
    )
    ids = torch.arange(1, 31)[None]
    for dtype in (torch.float32, torch.bfloat16):
        talker = talker.to(dtype)
        steps = talker.generate(
            ids,
            {"audio": torch.zeros(1, 256, dtype=dtype), "motion": torch.zeros(1, 40, dtype=dtype)},
            max_patches=patches + 2,  # the first reads the text, one warms up
            generator=torch.Generator().manual_seed(0),
            sampling=Sampling(num_steps=10, guidance_scale=2.0),
        )
        next(steps)  # reads the text as well
        best = fastest(lambda: next(steps), patches)
        read, name = weights_read(talker, 9), str(dtype).removeprefix("torch.")
        note = (
            "paper preset, random weights: both heads (10 Euler steps, 9 evaluated, guidance in "
            "one batch), patch encoders, backbone token, stop"
        )
        rows += [
            {
                "name": f"talker: paper-size generation step, {name}",
                "value": best,
                "unit": "s",
                "note": f"{note}; best of {patches}",
            },
            {
                "name": f"talker: weights read in that step, {name}",
                "value": read / 1e9,
                "unit": "GB",
                "note": "912,301,128 weights are stored; a head is read once per evaluation",
            },
            {
                "name": f"talker: share of memory bandwidth, {name}",
                "value": read / best / bandwidth,
                "unit": "of 1",
                "note": "weights read / time / bandwidth above",
            },
        ]
    return rows


def run() -> list[dict]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        return bench_training() + bench_paper_step()
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    for row in run():
        print(f"{row['name']:<56} {row['value']:>10.4g} {row['unit']:<8} {row['note']}")
