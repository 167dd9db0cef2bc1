"""The talker: a training step against a plain loop, and one generation step at the paper's size.

Random weights and latents, CPU, 2 threads, one process. The loop runs the same modules sample by
sample, patch by patch and draw by draw, as one would first write it; both give the same losses,
which is checked.
"""

import torch

from talker_t2av.common.measuring import fastest, fastest_in_turns
from talker_t2av.model.flow import FlowDraws, draw_flow, flow_matching_loss
from talker_t2av.model.patches import count_patches
from talker_t2av.model.sequence import TalkerSample, make_batch, target_patches
from talker_t2av.model.stop import stop_labels, stop_loss
from talker_t2av.model.talker import Sampling, Talker
from talker_t2av.model.text import load_tokenizer

RATES = {"hidden": 0.1, "history": 0.05}


def clips(config, number: int, seconds: float, generator) -> list[TalkerSample]:
    """Random clips with video; every fourth is speech only."""
    frames = round(seconds * config.frame_rate / config.patch_size) * config.patch_size
    random = lambda *shape: torch.randn(*shape, generator=generator)
    return [
        TalkerSample(
            f"this is sentence number {i}",
            random(frames, config.audio_dim),
            random(frames, config.motion_dim) if i % 4 else None,
            random(config.speaker_dim),
        )
        for i in range(number)
    ]


def loop_step(talker: Talker, batch, draws: dict[str, FlowDraws]):
    """Losses of a batch, one sample, one patch and one draw at a time."""
    c, P, rows = talker.config, talker.config.patch_size, {"audio": 0, "motion": 0}
    losses, logits, labels = {"audio": [], "motion": []}, [], []
    modules = {
        "audio": (talker.patches.audio_projector, talker.patches.audio_encoder, talker.audio_head),
        "motion": (
            talker.patches.motion_projector,
            talker.patches.motion_encoder,
            talker.motion_head,
        ),
    }
    slots, targets = (
        count_patches(batch.audio_length, batch.motion_length, P),
        target_patches(batch.audio_length, batch.motion_length, P),
    )
    starts, everyone = (
        batch.first_slot + 1,
        stop_labels(batch.first_slot + 1, slots, batch.input_ids.shape[1] + 1, P, c.frame_rate),
    )
    for b in range(len(batch)):
        video, n, first = bool(batch.motion_length[b]), int(slots[b]), int(starts[b])
        latents = {"audio": batch.audio[b].split(P), "motion": batch.motion[b].split(P)}
        tokens = []
        for i in range(n):
            parts = [
                modules[s][1](modules[s][0](latents[s][i][None]))
                for s in (("audio", "motion") if video else ("audio",))
            ]
            tokens.append(parts[0] + (parts[1] if video else talker.patches.motion_padding[0]))
        text = talker.backbone.embed_tokens(batch.input_ids[b : b + 1, : int(batch.num_tokens[b])])
        row = torch.cat(
            [
                talker.patches.embed_task(torch.tensor([int(video)])),
                text[:, : first - 1],
                torch.stack(tokens, 1),
                text[:, first - 1 + n :],
            ],
            1,
        )
        hidden = talker.backbone(inputs_embeds=row)
        logits.append(talker.stop(hidden)[0])
        labels.append(everyone[0][b, : row.shape[1]])
        for s, world in (("audio", batch.speaker[b]), ("motion", batch.motion[b, 0])):
            for i in range(int(targets[s][b])):
                history = latents[s][i - 1] if i else torch.zeros_like(latents[s][0])
                conditions = {
                    "hidden": hidden[:, first + i - 1],
                    "history": history[None],
                    "global_condition": world[None],
                }
                for k in range(c.num_draws):
                    at = slice(rows[s], rows[s] + 1)
                    one = FlowDraws(
                        draws[s].noise[at],
                        draws[s].timestep_normal[at],
                        {name: u[at] for name, u in draws[s].drop_uniform.items()},
                    )
                    losses[s].append(
                        flow_matching_loss(
                            modules[s][2], latents[s][i][None], conditions, one, RATES
                        )
                    )
                    rows[s] += 1
    audio, motion = (torch.stack(losses[s]).mean() for s in ("audio", "motion"))
    stop = stop_loss(torch.cat(logits), torch.cat(labels), everyone[1], c.stop_positive_weight)
    return audio + c.motion_loss_weight * motion + c.stop_loss_weight * stop


def bench_training(number: int = 4, seconds: float = 2.0) -> list[dict]:
    """Ours against the loop, on a batch that the loop gets through in reasonable time; and ours
    alone on a usual one.
    """
    torch.manual_seed(0)
    talker, generator = Talker("small"), torch.Generator().manual_seed(0)
    batch = make_batch(
        clips(talker.config, number, seconds, generator), load_tokenizer("small"), talker.config
    )
    rows = target_patches(batch.audio_length, batch.motion_length, talker.config.patch_size)
    dims = {"audio": talker.config.audio_dim, "motion": talker.config.motion_dim}
    draws = {
        s: draw_flow(
            torch.zeros(int(rows[s].sum()), talker.config.patch_size, d),
            RATES,
            generator,
            talker.config.num_draws,
        )
        for s, d in dims.items()
    }
    found = {}

    def run(name, function):
        talker.zero_grad()
        loss = function()
        loss.backward()
        found[name] = loss.item(), talker.patches.audio_projector.weight.grad.norm().item()

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
            "note": "small preset, K = 2, forward and backward, float32; best of 3",
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
    once = (
        size(talker.backbone.stack)
        + size(talker.patches.audio_encoder)
        + size(talker.patches.motion_encoder)
        + size(talker.stop)
    )
    return once + evaluations * (size(talker.audio_head) + size(talker.motion_head))


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
            torch.zeros(1, 256, dtype=dtype),
            torch.zeros(1, 40, dtype=dtype),
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
