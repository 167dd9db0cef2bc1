"""Compare the model with every golden file at hand and write the largest differences to
data/results/parity.json.

    TALKER_T2AV_GOLDEN=FOLDER python tests/parity.py

Each check below returns rows of {"file", "what", "difference", "tolerance"}; the tests assert on
the same rows. Differences are absolute, those of losses relative, those of gradients relative to
the tensor's largest entry. Sizes come from the JSON files.
"""

import json
import sys
from dataclasses import replace

import torch
from golden_files import FOLDERS, find_golden

from talker_t2av.common.media import data_dir, write_result
from talker_t2av.model.backbone import Backbone, BackboneConfig, KVCache, from_qwen3
from talker_t2av.model.config import TalkerConfig, from_released, talking_streams, to_released
from talker_t2av.model.flow import FlowDraws, Sampling, flow_matching_loss, sample_flow
from talker_t2av.model.head import RELEASED_HEAD_NAMES, DiffusionHead, HeadConfig
from talker_t2av.model.layers import RELEASED_STACK_NAMES, TransformerConfig, rename
from talker_t2av.model.patches import PatchEncoder, span_mask
from talker_t2av.model.sequence import StreamBatch, TalkerBatch, predicting_states
from talker_t2av.model.stop import StopPredictor, StopRule, stop_labels, stop_loss
from talker_t2av.model.talker import Talker, head_targets

BACKBONE_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "rope_theta",
    "rms_norm_eps",
)


def row(file: str, what: str, difference, tolerance: float) -> dict:
    return {
        "file": file,
        "what": what,
        "difference": float(difference),
        "tolerance": float(tolerance),
    }


def apart(ours, theirs, mask=None) -> float:
    """Largest absolute difference, where `mask` is true; shapes must be equal."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} against {tuple(theirs.shape)}"
    gap = (ours.detach() - theirs).abs()
    return float(gap.max() if mask is None else gap[mask].max())


def config_of(spec: dict) -> TalkerConfig:
    """The configuration that a joint_step file describes."""
    c, llm, heads, patch = (
        spec["config"],
        spec["config"]["llm"],
        spec["config"]["heads"],
        spec["config"]["patch_encoder"],
    )
    return TalkerConfig(
        **{name: llm[name] for name in BACKBONE_SIZES},
        num_patch_layers=patch["n_layer"],
        num_patch_attention_heads=patch["n_head"],
        num_head_layers=heads["n_layer"],
        num_head_attention_heads=heads["n_head"],
        streams=talking_streams(
            c["speech_dim"], c["motion_dim"], c["speaker_dim"], float(c["motion_loss_weight"])
        ),
        patch_size=c["patch_size"],
        frame_rate=c["fps"],
        stop_positive_weight=c["stop_pos_weight_factor"],
        max_position_embeddings=1024,
    )


class TagOnFirstPatch(Talker):
    """A habit of the released command line: the task tag is no token; it is added to the first
    given patch.
    """

    def read_prompt(self, prompt_ids, prompt_lengths, task, room):
        B, T = prompt_ids.shape
        self.tag = self.task_embedding(torch.full((B, 1), task))
        cache = KVCache(self.backbone.config, B, T + room)
        states = self.backbone(input_ids=prompt_ids, lengths=prompt_lengths, kv_cache=cache)
        return states[torch.arange(B), prompt_lengths - 1], cache

    def read_token(self, token, cache):
        tag, self.tag = self.tag, 0
        return super().read_token(token + tag, cache)


def talker_of(
    tensors: dict, spec: dict, overrides: dict | None = None, kind: type = Talker
) -> Talker:
    """A talker with the weights of a joint_step file, renamed by the table, strictly."""
    talker = kind(config_of(spec))
    weights = {
        name.removeprefix("weights."): value
        for name, value in tensors.items()
        if name.startswith("weights.")
    } | (overrides or {})
    renamed = {from_released(name): value for name, value in weights.items()}
    renamed.pop(None, None)
    talker.load_state_dict(renamed)
    return talker.eval()


def batch_of(tensors: dict, prefix: str, P: int = 4) -> TalkerBatch:
    t = {
        name.removeprefix(f"{prefix}input."): value
        for name, value in tensors.items()
        if name.startswith(f"{prefix}input.")
    }
    span, B = t["speech_span"], len(t["input_ids"])
    num_patches = span[:, 1] - span[:, 0]
    L = int(num_patches.max())

    def stream(latents, lengths, count, condition):
        real = span_mask(torch.zeros_like(lengths), lengths, latents.shape[1])[..., None]
        frames = torch.nn.functional.pad(latents * real, (0, 0, 0, L * P - latents.shape[1]))
        patches = frames.view(B, L, P, -1)
        is_target = span_mask(torch.zeros_like(count), torch.where(count > 1, count, 0), L)
        return StreamBatch(
            patches=patches,
            num_frames=lengths,
            is_read=torch.ones(B, dtype=torch.bool),
            targets=patches,
            is_target=is_target,
            condition=condition,
        )

    return TalkerBatch(
        input_ids=t["input_ids"],
        num_tokens=t["attention_mask"].long().sum(1),
        first_patch=span[:, 0],
        num_patches=num_patches,
        task=t["task_tag"],
        streams={
            "audio": stream(
                t["speech_latent"], t["mel_len"], -(-t["mel_len"] // P), t["speaker_emb"]
            ),
            "motion": stream(t["motion"], t["motion_len"], t["motion_len"] // P, t["motion"][:, 0]),
        },
    )


def draws_of(tensors: dict, prefix: str) -> dict[str, FlowDraws]:
    def one(stream):
        d = {
            name.rsplit(".", 1)[1]: value
            for name, value in tensors.items()
            if name.startswith(f"{prefix}draw.{stream}.")
        }
        return FlowDraws(
            d["z"].transpose(1, 2),
            d["n_t"],
            {"hidden": d["u_mu_drop"], "previous_patch": d["u_context_drop"]},
        )

    return {"audio": one("speech"), "motion": one("motion")}


def joint_step(prefix: str) -> list[dict]:
    """One training step: embeddings, hidden states, targets, losses, stop, gradients. `prefix` is
    "" or "mixed.".
    """
    tensors, spec = find_golden("joint_step")
    talker, batch, tolerance = (
        talker_of(tensors, spec),
        batch_of(tensors, prefix),
        spec["tolerance"],
    )
    talker.config = replace(talker.config, num_draws=spec["config"]["cfm_k_repeat"][prefix])
    get = lambda name: tensors[f"{prefix}{name}"]
    name, real = f"step {prefix.rstrip('.') or 'single'}", get("mid.attention_mask").bool()
    rows = [
        row(
            name,
            "embeddings of the row",
            apart(talker.embed(batch), get("mid.inputs_embeds"), real),
            tolerance["max_abs"],
        )
    ]
    output = talker(batch, draws=draws_of(tensors, prefix))
    rows.append(
        row(
            name,
            "hidden states",
            apart(output.hidden, get("mid.hidden"), real),
            tolerance["max_abs"],
        )
    )
    states = predicting_states(output.hidden, batch.first_patch + 1, int(batch.num_patches.max()))
    for ours, theirs in (("audio", "speech"), ("motion", "motion")):
        data, conditions = head_targets(batch)[ours].rows(states)
        k = talker.config.num_draws
        pairs = {
            "target": data.transpose(1, 2),
            "context": conditions["previous_patch"].transpose(1, 2),
            "global": conditions["global_condition"],
            "mu": conditions["hidden"],
        }
        gap = max(
            apart(value.repeat_interleave(k, 0), get(f"mid.{theirs}_{key}"))
            for key, value in pairs.items()
        )
        rows.append(row(name, f"{ours} targets and conditions", gap, tolerance["max_abs"]))
    rows.append(
        row(
            name,
            "stop logits",
            apart(output.stop_logits, get("output.stop_logits"), real),
            tolerance["max_abs"],
        )
    )
    for ours, theirs in (
        ("audio", "speech"),
        ("motion", "motion"),
        ("stop", "stop"),
        ("loss", "total"),
    ):
        want = get(f"output.loss_{theirs}").item()
        rows.append(
            row(
                name,
                f"{ours} (relative)",
                abs(output.numbers()[ours] - want) / abs(want),
                tolerance["loss_relative"],
            )
        )
    output.loss.backward()
    grads = {
        key.removeprefix(f"{prefix}grad."): value
        for key, value in tensors.items()
        if key.startswith(f"{prefix}grad.")
    }
    weights, gap = dict(talker.named_parameters()), 0.0
    for key, want in grads.items():
        parameter = weights[from_released(key)]
        mine = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        gap = max(gap, apart(mine, want) / max(float(want.abs().max()), 1e-12))
    return rows + [
        row(name, f"{len(grads)} gradients (relative)", gap, tolerance["grad_relative_to_max"])
    ]


def generate(variant: str) -> list[dict]:
    """A whole generation from given noise. `variant` is "free" or "prefix"."""
    (weights, step), (t, spec) = find_golden("joint_step"), find_golden("generate")
    overrides = {
        name.removeprefix("weights_override."): value
        for name, value in t.items()
        if name.startswith("weights_override.")
    }
    c, talker = (
        spec["config"],
        talker_of(weights, step, overrides, TagOnFirstPatch if variant == "prefix" else Talker),
    )
    P, given = c["patch_size"], c[variant].get("prefix_patches", 0)
    get = lambda name: t[f"{variant}.{name}"]
    noise = {
        ours: c["temperature"] * get(f"draw.{theirs}_noise").transpose(1, 2)[:, None]
        for ours, theirs in (("audio", "speech"), ("motion", "motion"))
    }
    motion = t["input.motion"][None]
    given_frames = (
        {"audio": t["input.speech_latent"][:, : given * P], "motion": motion[:, : given * P]}
        if given
        else {}
    )
    run = talker.generate(
        t["input.input_ids"][:, : int(t["input.span"][0, 0])],
        {"audio": t["input.speaker_emb"], "motion": motion[:, 0]},
        max_patches=c[variant]["patches"] + given + 5,
        noise=noise,
        given=given_frames,
        sampling=Sampling(
            c["n_timesteps"], c["cfg_value"], c["zero_star"], c["sway_sampling_coef"]
        ),
        stop_rule=StopRule(c["stop_threshold"], c["stop_streak"], c["min_steps_before_stop"]),
    )
    patches, tolerance = list(run)[given:], spec["tolerance"]["max_abs"]
    asked = torch.cat([p.stop_logit for p in patches])[c["min_steps_before_stop"] - 1 :]
    name = f"run {variant}"
    return [
        row(name, "patches generated (difference)", abs(len(patches) - c[variant]["patches"]), 0),
        row(
            name,
            "audio latents",
            apart(torch.cat([p.audio for p in patches]), get("output.speech")),
            tolerance,
        ),
        row(
            name,
            "motion latents",
            apart(torch.cat([p.motion for p in patches]), get("output.motion")),
            tolerance,
        ),
        row(name, "stop logits", apart(asked, get("mid.stop_logits")), tolerance),
    ]


def stop() -> list[dict]:
    """Stop predictor, labels (exactly), weights and losses."""
    t, spec = find_golden("stop")
    tolerance, predictor = spec["tolerance"], StopPredictor(spec["config"]["dim"])
    predictor.load_state_dict(
        {
            name.removeprefix("weights."): value
            for name, value in t.items()
            if name.startswith("weights.")
        }
    )
    rows, wrong, gap = (
        [
            row(
                "stop",
                "logits",
                apart(predictor(t["input.x"]), t["output.logits"]),
                tolerance["max_abs"],
            )
        ],
        0,
        0.0,
    )
    for name, case in spec["config"]["cases"].items():
        get = lambda key, name=name: t[f"labels.{name}.{key}"]
        labels, zeros_per_one = stop_labels(
            get("start"),
            get("length"),
            case["T"],
            case["patch_size"],
            case["fps"],
            case["ignore_seconds"],
        )
        wrong += int((labels != get("labels")).sum()) + int(zeros_per_one != get("pos_weight")[0])
        gap = max(
            gap,
            abs(stop_loss(get("logits"), labels, zeros_per_one).item() / get("loss").item() - 1),
        )
    return rows + [
        row("stop", "labels and weights that differ", wrong, 0),
        row("stop", "losses (relative)", gap, tolerance["loss_relative"]),
    ]


def weights_of(tensors: dict, names=()) -> dict:
    """The weights of a golden file under our names."""
    return {
        rename(name.removeprefix("weights."), names): value
        for name, value in tensors.items()
        if name.startswith("weights.") and not name.endswith("rope.w")
    }


def patch_encoder() -> list[dict]:
    """One patch encoder: usual, zero and very small frames."""
    t, spec = find_golden("patch_encoder")
    c = spec["config"]
    encoder = PatchEncoder(
        TransformerConfig(
            hidden_size=c["hidden_size"],
            num_hidden_layers=c["n_layer"],
            num_attention_heads=c["n_head"],
        )
    )
    encoder.load_state_dict(weights_of(t, RELEASED_STACK_NAMES))
    pairs = {
        "y": t["input.x"],
        "y_small": t["input.x_small"],
        "y_zero": torch.zeros(1, 1, c["P"], c["hidden_size"]),
    }
    gap = max(apart(encoder(x), t[f"output.{name}"]) for name, x in pairs.items())
    return [row("patches", "one vector per patch", gap, spec["tolerance"]["max_abs"])]


def head_of(tensors: dict, c: dict) -> DiffusionHead:
    head = DiffusionHead(
        HeadConfig(
            latent_dim=c["in_channels"],
            global_condition_dim=c["global_cond_channels"],
            patch_size=c["P"],
            hidden_size=c["hidden"],
            num_hidden_layers=c["n_layer"],
            num_attention_heads=c["n_head"],
        )
    )
    head.load_state_dict(weights_of(tensors, RELEASED_HEAD_NAMES))
    return head.eval()


def conditions_of(t: dict) -> dict:
    return {
        "hidden": t["input.mu"],
        "global_condition": t["input.global_cond"],
        "previous_patch": t["input.cond"].transpose(1, 2),
    }


@torch.no_grad()
def head() -> list[dict]:
    """One velocity evaluation, with the released zero as second time and with others."""
    t, spec = find_golden("dit_head")
    model, x, conditions = (
        head_of(t, spec["config"]),
        t["input.x"].transpose(1, 2),
        conditions_of(t),
    )
    gap = max(
        apart(model(x, t["input.t"], **conditions).transpose(1, 2), t["output.v_dt0"]),
        apart(
            model(x, t["input.t"], **conditions, delta=t["input.dt"]).transpose(1, 2), t["output.v"]
        ),
        apart(
            model(
                x, t["input.t"], **conditions | {"hidden": torch.zeros_like(t["input.mu"])}
            ).transpose(1, 2),
            t["output.v_mu0_dt0"],
        ),
    )
    return [row("head", "velocity", gap, spec["tolerance"]["max_abs"])]


def flow() -> list[dict]:
    """Training loss with given draws, and sampling from given noise."""
    (t, spec), (s, sampler) = find_golden("cfm_loss"), find_golden("cfm_sampler")
    draws = FlowDraws(
        t["draw.z"].transpose(1, 2),
        t["draw.n_t"],
        {"hidden": t["draw.u_mu_drop"], "previous_patch": t["draw.u_context_drop"]},
    )
    loss = flow_matching_loss(
        head_of(t, spec["config"]),
        t["input.x1"].transpose(1, 2),
        conditions_of(t),
        draws,
        {"hidden": 0.1, "previous_patch": 0.05},
    ).item()
    rows = [
        row(
            "flow",
            "loss (relative)",
            abs(loss / t["output.loss"].item() - 1),
            spec["tolerance"]["loss_relative"],
        )
    ]
    model, noise = head_of(s, sampler["config"]), s["input.z"].transpose(1, 2)
    for name, steps, key in (("10", 10, "output.star"), ("50", 50, "output.star_50")):
        made = sample_flow(
            model,
            noise,
            conditions_of(s),
            Sampling(
                steps, sampler["config"]["cfg_value"], sway=sampler["config"]["sway_sampling_coef"]
            ),
        )
        rows.append(
            row(
                "flow",
                f"sample after {name} steps",
                apart(made.transpose(1, 2), s[key]),
                sampler["tolerance"]["max_abs"],
            )
        )
    return rows


@torch.no_grad()
def backbone() -> list[dict]:
    """Hidden states from embeddings, with right padding, and token by token."""
    t, spec = find_golden("backbone")
    names = BACKBONE_SIZES
    model = Backbone(
        BackboneConfig(
            **{name: spec["config"][name] for name in names}, max_position_embeddings=1024
        )
    ).eval()
    model.load_state_dict(
        {
            from_qwen3(name.removeprefix("weights.")): value
            for name, value in t.items()
            if name.startswith("weights.") and "lm_head" not in name
        }
    )
    real, tolerance = t["input.attention_mask"].bool(), spec["tolerance"]["max_abs"]
    return [
        row(
            "backbone",
            f"hidden states from {kind}",
            apart(
                model(**{given: t[f"input.{given}"]}, lengths=real.sum(1)),
                t[f"output.{kind}_hidden"],
                real,
            ),
            tolerance,
        )
        for kind, given in (("ids", "input_ids"), ("embeds", "inputs_embeds"))
    ]


def manifest() -> list[dict]:
    """Names and shapes of the full-size checkpoint against the paper preset, both ways."""
    path = next(
        f
        for folder in FOLDERS
        for f in (folder / "manifest_full.json", folder / "manifest_talker.json")
        if f.is_file()
    )
    spec = json.loads(path.read_text())["talker"]
    with torch.device("meta"):
        ours = {name: tuple(value.shape) for name, value in Talker("paper").state_dict().items()}
    theirs = {
        name: tuple(shape) for name, shape, *_ in spec["entries"] if from_released(name) is not None
    }
    there, back = (
        {from_released(name): shape for name, shape in theirs.items()},
        {to_released(name): shape for name, shape in ours.items()},
    )
    total = sum(torch.Size(shape).numel() for shape in ours.values())
    return [
        row(
            "names",
            "released to ours: names that differ",
            len(set(there.items()) ^ set(ours.items())),
            0,
        ),
        row(
            "names",
            "ours to released: names that differ",
            len(set(back.items()) ^ set(theirs.items())),
            0,
        ),
        row("names", "weights more or fewer", abs(total - spec["parameters"]), 0),
    ]


CHECKS = {  # name -> (golden files it needs, check)
    "names": ((), manifest),
    "backbone": (("backbone",), backbone),
    "patches": (("patch_encoder",), patch_encoder),
    "head": (("dit_head",), head),
    "flow": (("cfm_loss", "cfm_sampler"), flow),
    "stop": (("stop",), stop),
    "step single": (("joint_step",), lambda: joint_step("")),
    "step mixed": (("joint_step",), lambda: joint_step("mixed.")),
    "run free": (("joint_step", "generate"), lambda: generate("free")),
    "run prefix": (("joint_step", "generate"), lambda: generate("prefix")),
}


def main() -> int:
    rows = []
    for name, (files, check) in CHECKS.items():
        if lacking := [file for file in files if find_golden(file) is None]:
            print(
                f"{name}: needs {', '.join(lacking)}; set TALKER_T2AV_GOLDEN to the full set",
                file=sys.stderr,
            )
            return 1
        rows += check()
    for r in rows:
        print(
            f"{r['file']:12} {r['what']:36} {r['difference']:10.1e}   allowed {r['tolerance']:.0e}"
        )
    write_result(data_dir() / "results" / "parity.json", rows, "python tests/parity.py")
    return int(any(r["difference"] > r["tolerance"] for r in rows))


if __name__ == "__main__":
    sys.exit(main())
