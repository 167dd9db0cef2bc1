"""Training the talker: batches, the random part of the patches, helpers that leave, exact resume,
both metrics, refusals.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from talker_t2av.model.config import PRESETS
from talker_t2av.model.sequence import predicting_states
from talker_t2av.model.talker import Talker, head_targets
from talker_t2av.model.text import load_tokenizer
from talker_t2av.training import talker as module
from talker_t2av.training.latents import WorldSource, quick_latents
from talker_t2av.training.losses import (
    IGNORE,
    LossOptions,
    TalkerTrainer,
    add_noise,
    collate_clips,
    draw_clips,
    draw_leads,
    keep_targets,
    mixed_batches,
    phoneme_labels,
    phoneme_table,
    sorted_pools,
    text_tokenizer,
)
from talker_t2av.training.talker import (
    TALKER_RECIPES,
    attention_maps,
    change_recipe,
    diagonal,
    parse_setting,
    reading_checks,
    reading_gap,
    run_talker,
    save_talker,
    spoken_now,
    talker_command,
    token_times,
    train_talker,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def data():
    return quick_latents(WorldSource(28, "train")), quick_latents(WorldSource(12, "validation"))


@pytest.fixture(scope="module")
def parts(data):
    tokenizer, table = text_tokenizer("characters"), phoneme_table(data[0])
    return tokenizer, PRESETS["tiny"].with_sizes(**data[0].sizes), table


def trainer_of(parts, options=LossOptions()):
    torch.manual_seed(0)
    return TalkerTrainer(parts[1], options, len(parts[2]))


SHORT = {
    "steps": 4,
    "save_every": 2,
    "validate_every": 4,
    "frames": 240,
    "check_clips": 3,
    "sample_clips": 1,
}
SHORT_RECIPE = replace(change_recipe(TALKER_RECIPES["tiny"], SHORT | {"num_steps": 2}))


# --- batches


def test_batches_are_half_and_half_and_a_function_of_seed_step_rank(data, parts):
    tokenizer, config, table = parts
    make = mixed_batches(data[0], tokenizer, config, table, frames=400, seed=3)
    from_start, from_two = make(0, 0, 1), make(2, 0, 1)
    batches = [next(from_start) for _ in range(4)]
    for batch in batches:
        assert 2 * int((batch["talker"].streams["motion"].num_frames > 0).sum()) == len(
            batch["talker"]
        )
        assert batch["phonemes"].shape == (
            len(batch["talker"]),
            batch["talker"].streams["audio"].num_frames.max(),
        )
    sound = lambda batch: batch["talker"].streams["audio"].patches
    again = next(from_two)
    assert torch.equal(sound(again), sound(batches[2])) and torch.equal(
        again["phonemes"], batches[2]["phonemes"]
    )
    other = next(make(2, 1, 2))
    assert sound(other).shape != sound(again).shape or not torch.equal(sound(other), sound(again))


def test_ranks_draw_one_length(data):
    latents, pools = data[0], sorted_pools(data[0])
    for step in range(20):
        a, b = (
            latents.lengths[draw_clips(pools, latents.lengths, 400, (0, step, rank))]
            for rank in (0, 1)
        )
        assert len(a) == len(b)


def test_one_kind_alone_makes_batches_too(parts):
    speech = quick_latents(WorldSource(8, sound_only=1.0))
    batch = next(
        mixed_batches(
            speech, parts[0], parts[1].with_sizes(**speech.sizes), phoneme_table(speech), 200
        )(0, 0, 1)
    )
    losses = trainer_of(parts)(batch, rng())
    assert losses["motion"] == 0 and torch.isfinite(losses["loss"])


def test_labels_say_what_is_spoken(data):
    record, table = data[0].records[0], phoneme_table(data[0])
    labels = phoneme_labels(record, table)
    for frame in range(0, record["n_frames"], 3):
        middle = (frame + 0.5) / 25
        now = next(symbol for symbol, start, end in record["phonemes"] if start <= middle < end)
        assert labels[frame] == table[now]
    assert (phoneme_labels(record | {"phonemes": []}, table) == IGNORE).all()


# --- the loss


def test_off_switches_leave_the_talkers_own_loss(data, parts):
    trainer = trainer_of(parts)
    batch = collate_clips(data[0], list(range(6)), *parts)
    ours, plain = trainer(batch, rng(3)), trainer.talker(batch["talker"], rng(3))
    for mine, theirs in (("loss", plain.loss), *plain.losses.items()):
        assert torch.equal(ours[mine], theirs)


def test_a_part_of_the_patches_is_right_on_average(data, parts):
    trainer = trainer_of(parts)
    batch = collate_clips(data[0], list(range(6)), *parts)["talker"]
    every, counted = batch.streams["audio"].is_target, 0
    for seed in range(400):
        kept = keep_targets(batch, 16, rng(seed)).streams["audio"].is_target
        assert kept.sum() == 16 and not (kept & ~every).any()
        counted = counted + kept
    expected = 400 * 16 / int(every.sum())
    assert (counted[every] - expected).abs().max() < 6 * expected**0.5 and not counted[~every].any()
    for stream, kept in keep_targets(batch, 10_000, rng()).streams.items():
        assert torch.equal(kept.is_target, batch.streams[stream].is_target)
    with torch.no_grad():
        loss = lambda b, s: trainer.talker(b, rng(s)).losses["audio"]
        whole = torch.stack([loss(batch, s) for s in range(8)])
        part = torch.stack([loss(keep_targets(batch, 16, rng(s)), s) for s in range(40)])
    assert abs(part.mean() - whole.mean()) < 4 * (part.std() / 40**0.5 + whole.std() / 8**0.5)


def test_the_same_patches_for_all_streams(data, parts):
    """Of places where any stream has a target, so many; each stream keeps its own of them."""
    clips = np.flatnonzero(data[0].has_motion)[:3].tolist()
    clips += np.flatnonzero(~data[0].has_motion)[:2].tolist()
    batch = collate_clips(data[0], clips, *parts)["talker"]
    sound, face = (batch.streams[name].is_target for name in ("audio", "motion"))
    kept = keep_targets(batch, 20, rng(), same=True).streams
    assert kept["audio"].is_target.sum() == 20
    assert torch.equal(kept["motion"].is_target, kept["audio"].is_target & face)
    assert 0 < kept["motion"].is_target.sum() < 20 and not (kept["audio"].is_target & ~sound).any()
    apart = keep_targets(batch, 20, rng()).streams
    assert not torch.equal(apart["motion"].is_target, apart["audio"].is_target & face)


def test_the_auxiliary_loss_asks_about_the_next_patch_and_blind_clips_teach_nothing(data, parts):
    trainer = trainer_of(parts, LossOptions(phoneme_weight=1.0))
    batch = collate_clips(data[0], [0, 1, 2], *parts)
    losses = trainer(batch, rng())
    talker, clips = trainer.talker, batch["talker"]
    hidden = talker.backbone(inputs_embeds=talker.embed(clips), lengths=clips.num_tokens + 1)
    states = predicting_states(hidden, clips.first_patch + 1, int(clips.num_patches.max()))
    _, conditions = head_targets(clips)["audio"].rows(states)
    wanted = torch.cat([phoneme_labels(data[0].records[i], parts[2]) for i in (0, 1, 2)])
    logits = trainer.phoneme_head(conditions["hidden"]).view(-1, len(parts[2]))
    torch.testing.assert_close(losses["phoneme"], F.cross_entropy(logits, wanted))
    torch.testing.assert_close(
        losses["phoneme_accuracy"], (logits.argmax(-1) == wanted).float().mean()
    )
    weight = parts[1].streams["motion"].loss_weight
    torch.testing.assert_close(
        losses["loss"],
        losses["audio"] + weight * losses["motion"] + losses["stop"] + losses["phoneme"],
    )
    batch["phonemes"][:] = IGNORE
    assert trainer(batch, rng())["phoneme"] == 0


def test_noise_is_read_but_not_asked_for(data, parts):
    batch = collate_clips(data[0], [0, 1, 2, 3], *parts)["talker"]
    noisy = add_noise(batch, 0.5, rng())
    for name, stream in noisy.streams.items():
        clean = batch.streams[name]
        assert torch.equal(stream.targets, clean.targets) and torch.equal(
            stream.condition, clean.condition
        )
        assert not torch.equal(
            head_targets(noisy)[name].previous_patch, head_targets(batch)[name].previous_patch
        )
        level = (stream.patches - clean.patches).flatten(1).std(1)
        assert level.max() < 0.55 and level.max() - level.min() > 0.05
    trainer = trainer_of(parts, LossOptions(input_noise=0.5)).train()
    data_of = collate_clips(data[0], [0, 1, 2, 3], *parts)
    assert trainer(data_of, rng())["loss"] != trainer.eval()(data_of, rng())["loss"]


# --- gauges


def test_right_and_wrong_text(data, parts):
    tokenizer, config, table = parts
    checks = reading_checks(data[1], tokenizer, config, table, clips=4)
    for kind, pair in checks:
        right, wrong = pair["right"]["talker"], pair["wrong"]["talker"]
        assert (
            torch.equal(right.streams["audio"].patches, wrong.streams["audio"].patches)
            and right.input_ids.tolist() != wrong.input_ids.tolist()
        )
        assert bool((right.streams["motion"].num_frames > 0).all()) == (kind == "t2av")
    trainer = trainer_of(parts).eval()
    first = reading_gap(trainer, checks)
    assert first == reading_gap(trainer, checks)
    with torch.no_grad():
        # cannot read at all: texts of equal length are the same to it
        trainer.talker.backbone.embed_tokens.weight.zero_()
        for pair in (pair for _, pair in checks):
            pair["wrong"] = {
                "talker": replace(
                    pair["right"]["talker"],
                    input_ids=pair["right"]["talker"].input_ids.flip(0).roll(1, 0) * 0 + 7,
                ),
                "phonemes": pair["right"]["phonemes"],
            }
    blind = reading_gap(trainer, checks)
    assert all(
        blind[name] == pytest.approx(blind[name.replace("right", "wrong")], abs=1e-6)
        for name in blind
        if name.endswith("right")
    )


def test_attention_maps_are_those_of_the_backbone(data, parts):
    torch.manual_seed(0)
    talker = Talker(parts[1]).eval()
    batch = collate_clips(data[1], [0, 1], *parts)["talker"]
    row = talker.embed(batch)
    maps = attention_maps(talker.backbone, row, batch.num_tokens + 1)
    seen = []
    layer = talker.backbone.stack.layers[0].attention
    hook = layer.register_forward_hook(lambda m, inputs, out: seen.append((inputs[0], out)))
    with torch.no_grad():
        talker.backbone(inputs_embeds=row)
    hook.remove()
    x, out = seen[0]
    value = layer.project(x)[2].repeat_interleave(
        maps.shape[2] // layer.config.num_key_value_heads, 1
    )
    mine = layer.o_proj((maps[0] @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mine, out, atol=1e-5, rtol=1e-4)


def test_diagonal_finds_a_head_that_looks_at_what_is_spoken(data, parts, monkeypatch):
    tokenizer, config, table = parts
    batch, records = collate_clips(data[1], [0, 1, 2], *parts)["talker"], data[1].records[:3]
    talker = Talker(config)
    S = batch.input_ids.shape[1] + 1
    made = torch.full((2, 3, 4, S, S), 1e-4)
    for b, record in enumerate(records):
        near = spoken_now(record, tokenizer, 4).float()
        first = int(batch.first_patch[b]) + 1
        made[1, b, 2, first - 1 : first - 1 + len(near), 2 : 2 + near.shape[1]] = near / near.sum(
            1, keepdim=True
        ).clamp(min=1)
    monkeypatch.setattr(module, "attention_maps", lambda *args: made)
    found = diagonal(talker, batch, records, tokenizer)
    assert (
        found["best"] == (1, 2)
        and found["share"][1, 2] > 0.99
        and found["share"][0].max() < 0.05
        and found["even"] < 0.5
    )
    assert found["maps"][0].shape == spoken_now(records[0], tokenizer, 4).shape


@pytest.mark.parametrize("kind", ["characters", "pieces"])
def test_token_times_follow_the_words(data, kind):
    tokenizer = text_tokenizer(kind)
    for record in data[1].records[:4]:
        times = token_times(record, tokenizer)
        assert len(times) == len(tokenizer.encode(record["text"]))
        spoken = times[~times[:, 0].isnan()]
        assert (spoken[1:, 0] >= spoken[:-1, 0] - 1e-4).all() and (
            spoken[:, 1] >= spoken[:, 0]
        ).all()
        assert spoken[0, 0] == pytest.approx(record["words"][0][1], abs=1e-3) and spoken[
            -1, 1
        ] == pytest.approx(record["words"][-1][2], abs=1e-3)
    assert token_times(data[1].records[0] | {"words": []}, tokenizer).isnan().all()


# --- training


def test_interrupted_and_resumed_gives_the_same_weights(data, tmp_path, monkeypatch):
    whole, _, history = train_talker(SHORT_RECIPE, data, tmp_path / "whole", progress=False)
    real = mixed_batches

    def dying(*args, **kwargs):
        def batches(*position):
            for number, batch in enumerate(real(*args, **kwargs)(*position)):
                if number == 3:
                    raise KeyboardInterrupt
                yield batch

        return batches

    monkeypatch.setattr(module, "mixed_batches", dying)
    with pytest.raises(KeyboardInterrupt):
        train_talker(SHORT_RECIPE, data, tmp_path / "cut", progress=False)
    monkeypatch.setattr(module, "mixed_batches", real)
    resumed, _, again = train_talker(
        SHORT_RECIPE, data, tmp_path / "cut", resume=True, progress=False
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    assert [h["loss"] for h in history] == [h["loss"] for h in again]
    assert history[-1]["validation"] == again[-1]["validation"]
    assert {p.suffix for p in (tmp_path / "whole" / "samples").iterdir()} == {".wav", ".mp4"}
    with pytest.raises(ValueError, match="input_noise"):
        train_talker(
            change_recipe(SHORT_RECIPE, {"input_noise": 0.9}),
            data,
            tmp_path / "cut",
            resume=True,
            progress=False,
        )
    with pytest.raises(FileExistsError):
        train_talker(SHORT_RECIPE, data, tmp_path / "cut", progress=False)
    with pytest.raises(FileNotFoundError, match="resume"):
        train_talker(SHORT_RECIPE, data, tmp_path / "none", resume=True, progress=False)


def test_command_writes_a_talker_without_helpers(data, tmp_path, monkeypatch):
    import argparse

    monkeypatch.setattr(
        module, "load_latents", lambda folder: data[str(folder).endswith("validation")]
    )
    parser = argparse.ArgumentParser()
    talker_command(parser)
    words = [
        "--preset",
        "tiny",
        "--data",
        "nowhere",
        "--out",
        str(tmp_path),
        *(
            f"--set={name}={value}"
            for name, value in (SHORT | {"steps": 2, "validate_every": 2, "num_steps": 2}).items()
        ),
    ]
    assert run_talker(parser.parse_args(words)) == 0
    talker = Talker.from_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert (
        tokenizer.vocab_size == talker.config.vocab_size == text_tokenizer("characters").vocab_size
    )
    values = json.loads((tmp_path / "results.json").read_text())["values"]
    assert (
        values["steps"] == 2
        and values["validation"][-1]["map"]
        and values["weights"]["helpers"] > 0
    )
    assert sum(p.numel() for p in talker.parameters()) == values["weights"]["talker"]


def test_a_training_goes_on_from_a_talker(data, parts, tmp_path):
    torch.manual_seed(1)
    first = Talker(parts[1])
    save_talker(first, parts[0], tmp_path / "first")
    begun = Talker.from_pretrained(tmp_path / "first").state_dict()
    still = change_recipe(
        SHORT_RECIPE,
        {
            "start": str(tmp_path / "first"),
            "learning_rate": 1e-12,
            "weight_decay": 0.0,
            "steps": 1,
            "sample_clips": 0,
            "text": "pieces",
        },
    )
    trainer, _, _ = train_talker(still, data, None, progress=False)
    for name, value in trainer.talker.state_dict().items():
        torch.testing.assert_close(value, begun[name], atol=1e-6, rtol=0)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train_talker(
            replace(still, start=str(tmp_path / "nowhere")), data, tmp_path / "out", progress=False
        )
    with pytest.raises(ValueError, match="has shape"):
        train_talker(
            change_recipe(still, {"num_head_layers": 2, "intermediate_size": 64}),
            data,
            tmp_path / "out",
            progress=False,
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share, motion_share", [(0.0, 0.5), (0.4, 0.5), (0.6, 0.9), (1.0, 1.0)])
def test_streams_lead_as_often_as_asked(share, motion_share):
    has_motion = np.arange(50) % 2 == 0
    drawn = np.array(
        [draw_leads(has_motion, share, motion_share, 2, (0, step, 0)) for step in range(400)]
    )
    assert not drawn[:, ~has_motion].any() and set(drawn.ravel()) <= {-2, 0, 2}
    assert np.mean(drawn[:, has_motion] != 0) == pytest.approx(share, abs=0.02)
    assert np.mean(drawn[:, has_motion] < 0) == pytest.approx(share * motion_share, abs=0.02)


def test_saved_in_eight_bits_and_unchanged(parts, tmp_path):
    torch.manual_seed(0)
    talker = Talker(parts[1])
    before = {name: value.clone() for name, value in talker.state_dict().items()}
    save_talker(talker, parts[0], tmp_path)
    assert all(
        torch.equal(before[name], value) and value.dtype == torch.float32
        for name, value in talker.state_dict().items()
    )
    again = Talker.from_pretrained(tmp_path).state_dict()
    for name, value in again.items():
        step = (
            before[name].abs().amax(-1, keepdim=True) / 127
            if value.ndim == 2
            else before[name].abs() * 2**-10
        )
        assert (value - before[name]).abs().le(0.501 * step + 1e-9).all(), name
    assert (tmp_path / "model.safetensors").stat().st_size < 1.25 * sum(
        value.numel() for value in again.values()
    ) + 100_000


def test_settings():
    words = [
        "head_patches=7",
        "text=pieces",
        "learning_rate=2e-4",
        "motion.loss_weight=8",
        "guidance_scale=1.5",
    ]
    changed = change_recipe(TALKER_RECIPES["small"], dict(map(parse_setting, words)))
    assert (
        changed.config.streams["motion"].loss_weight == 8 and changed.sampling.guidance_scale == 1.5
    )
    assert (
        changed.options.head_patches == 7
        and changed.text == "pieces"
        and changed.train.learning_rate == 2e-4
    )
    for wrong in (
        {"colour": 1},
        {"train": 3},
        {"input_noise": -1},
        {"steps": 0},
        {"motion.colour": 1},
        {"hands.loss_weight": 1},
        {"frames": -5},
        {"frames": 1.5},
        {"face_share": 7},
        {"face_share": "half"},
        {"steps": 4.0},
        {"steps": True},
        {"weight_decay": "abc"},
        {"learning_rate": True},
        {"bf16": "yes"},
        {"text": 3},
        {"motion.loss_weight": "much"},
        {"motion.optional": 1},
        {"check_clips": 0},
        {"streams": 3},
    ):
        with pytest.raises(ValueError):
            change_recipe(TALKER_RECIPES["tiny"], wrong)
    assert change_recipe(TALKER_RECIPES["tiny"], {"learning_rate": 1}).train.learning_rate == 1
    with pytest.raises(ValueError, match="NAME=VALUE"):
        parse_setting("head_patches")
    assert parse_setting("steps=" + "[" * 100_000)[1].startswith("[[")  # a word, not a traceback
    with pytest.raises(ValueError, match="characters"):
        text_tokenizer("runes")
    with pytest.raises(ValueError):
        LossOptions(input_noise=-1.0)


def test_data_that_does_not_fit_is_refused(data, tmp_path):
    strange = quick_latents(WorldSource(6, "validation"))
    strange.fingerprint = strange.fingerprint | {"audio": "other"}
    with pytest.raises(ValueError, match="different codecs"):
        train_talker(SHORT_RECIPE, (data[0], strange), tmp_path / "a", progress=False)
    with pytest.raises(FileNotFoundError, match="index.json"):
        train_talker(SHORT_RECIPE, tmp_path, tmp_path / "b", progress=False)
    assert not list(tmp_path.iterdir())
