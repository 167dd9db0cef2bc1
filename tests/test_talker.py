"""The whole model: equal to the reference, blind to padding, causal in every arrangement,
honest about bad input.
"""

import json
from dataclasses import replace

import parity
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from talker_t2av.model.config import PRESETS, TalkerConfig, from_released, load_weights, to_released
from talker_t2av.model.flow import draw_flow
from talker_t2av.model.sequence import (
    Arrangement,
    TalkerSample,
    check_batch,
    lay_out,
    make_batch,
    parse_arrangement,
    place_slots,
    predicting_positions,
)
from talker_t2av.model.stop import StopRule, stop_labels, stop_loss
from talker_t2av.model.talker import Sampling, Talker
from talker_t2av.model.text import load_tokenizer

TINY = replace(
    PRESETS["tiny"],
    hidden_size=32,
    head_dim=8,
    intermediate_size=48,
    num_head_layers=1,
    speaker_dim=6,
    audio_dim=5,
    motion_dim=7,
)
ARRANGEMENTS = ["sum", "audio-motion", "motion-audio", "delay-1", "delay-3"]
TOKENIZER = load_tokenizer("tiny")
FAST = Sampling(num_steps=3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_samples(lengths=((26, 24), (14, None), (12, 20)), config=TINY, seed=0):
    g = seeded(seed)
    random = lambda *shape: torch.randn(*shape, generator=g)
    return [
        TalkerSample(
            "hello " * (i + 1),
            random(n, config.audio_dim),
            None if m is None else random(m, config.motion_dim),
            random(config.speaker_dim),
        )
        for i, (n, m) in enumerate(lengths)
    ]


def make_talker(config=TINY, seed=0):
    torch.manual_seed(seed)
    talker = Talker(config)
    with torch.no_grad():
        talker.patches.motion_padding.normal_()  # starts at zero, which would hide mistakes
    return talker.eval()


# ---- parity with the reference ----


@pytest.mark.parametrize("name", list(parity.CHECKS))
def test_parity(name, golden):
    files, check = parity.CHECKS[name]
    for file in files:
        golden(file)  # skips when the file is not at hand
    rows = check()
    assert rows
    for row in rows:
        assert row["difference"] <= row["tolerance"], row


def test_parity_can_fail(golden):
    """A wrong position, a wrong weight or a swapped task tag is seen by the same check."""
    tensors, spec = golden("joint_step")
    batch = parity.batch_of(tensors, "")
    want = tensors["output.loss_total"].item()
    loss = lambda talker, b=batch: talker(b, draws=parity.draws_of(tensors, "")).loss.item()
    talker = parity.talker_of(tensors, spec)
    talker.config = replace(talker.config, num_draws=1)
    assert abs(loss(talker) / want - 1) < 1e-5
    assert abs(loss(talker, replace(batch, first_slot=batch.first_slot - 1)) / want - 1) > 1e-5
    with torch.no_grad():
        talker.patches.task_embedding.weight.copy_(talker.patches.task_embedding.weight.flip(0))
    assert abs(loss(talker) / want - 1) > 1e-5


def test_stored_parity_table_is_complete():
    """The table that the notebook shows holds every check, all within tolerance."""
    from talker_t2av.common.media import data_dir

    rows = json.loads((data_dir() / "results" / "parity.json").read_text())["values"]
    assert {row["file"] for row in rows} == set(parity.CHECKS)
    assert all(row["difference"] <= row["tolerance"] for row in rows)


# ---- padding, order, determinism ----


def draws_of(samples, config, seed=5):
    """Draws for each sample alone, and joined for the batch."""
    alone = []
    for i, sample in enumerate(samples):
        rows = {
            "audio": -(-len(sample.audio) // 4),
            "motion": 0 if sample.motion is None else len(sample.motion) // 4,
        }
        rates = {"hidden": 0.1, "history": 0.05}
        alone.append(
            {
                s: draw_flow(
                    torch.zeros(max(n, 1), 4, d), rates, seeded(seed + 10 * i), config.num_draws
                )
                for (s, n), d in zip(rows.items(), (config.audio_dim, config.motion_dim))
            }
        )
        alone[-1]["rows"] = rows
    join = lambda s: [a[s] for a in alone if a["rows"][s] > 1]
    both = {
        s: replace(
            join(s)[0],
            noise=torch.cat([d.noise for d in join(s)]),
            timestep_normal=torch.cat([d.timestep_normal for d in join(s)]),
            drop_uniform={
                k: torch.cat([d.drop_uniform[k] for d in join(s)]) for k in ("hidden", "history")
            },
        )
        for s in ("audio", "motion")
    }
    return alone, both


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_padding_changes_nothing(arrangement):
    config = replace(TINY, arrangement=arrangement)
    talker, samples = make_talker(config), make_samples()
    alone, both = draws_of(samples, config)
    batch = make_batch(samples, TOKENIZER, config)
    late = lambda x, n: torch.where(
        torch.arange(x.shape[1])[None, :, None] >= n[:, None, None], 50.0, x
    )
    batch = replace(
        batch,
        audio=late(batch.audio, batch.audio_length),
        motion=late(batch.motion, batch.motion_length),
        input_ids=torch.where(
            torch.arange(batch.input_ids.shape[1]) >= batch.num_tokens[:, None], 9, batch.input_ids
        ),
    )
    together = talker(batch, draws=both)
    total, rows = {"audio": 0.0, "motion": 0.0}, {"audio": 0, "motion": 0}
    for b, (sample, draws) in enumerate(zip(samples, alone)):
        one = talker(make_batch([sample], TOKENIZER, config), draws=draws)
        n = one.hidden.shape[1]
        torch.testing.assert_close(together.hidden[b, :n], one.hidden[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            together.stop_logits[b, :n], one.stop_logits[0], rtol=1e-5, atol=1e-5
        )
        for s, loss in (("audio", one.audio_loss), ("motion", one.motion_loss)):
            total[s] += loss.item() * draws["rows"][s]
            rows[s] += draws["rows"][s]
    assert together.audio_loss.item() == pytest.approx(total["audio"] / rows["audio"], rel=1e-5)
    assert together.motion_loss.item() == pytest.approx(total["motion"] / rows["motion"], rel=1e-5)


def test_longer_padding_gives_the_same_losses():
    talker, samples = make_talker(), make_samples()
    batch = make_batch(samples, TOKENIZER, TINY)
    pad = lambda x, n: torch.nn.functional.pad(x, (0, 0) * (x.ndim - 2) + (0, n))
    wider = replace(
        batch,
        input_ids=pad(batch.input_ids, 9),
        audio=pad(batch.audio, 13),
        motion=pad(batch.motion, 6),
    )
    a, b = talker(batch, seeded()), talker(wider, seeded())
    assert a.losses() == pytest.approx(b.losses(), rel=1e-6)


def test_same_seed_same_losses():
    talker, batch = make_talker(), make_batch(make_samples(), TOKENIZER, TINY)
    assert talker(batch, seeded(3)).losses() == talker(batch, seeded(3)).losses()
    assert talker(batch, seeded(3)).losses() != talker(batch, seeded(4)).losses()


def test_no_motion_and_single_patches():
    """A batch without video, and clips of one patch, have no loss where they have no target."""
    talker = make_talker()
    output = talker(make_batch(make_samples([(14, None), (9, None)]), TOKENIZER, TINY), seeded())
    assert (
        output.motion_loss == 0 and output.num_motion_patches == 0 and output.num_audio_patches == 7
    )
    output = talker(make_batch(make_samples([(4, 4), (3, 7)]), TOKENIZER, TINY), seeded())
    assert output.audio_loss == 0 and output.motion_loss == 0 and torch.isfinite(output.loss)


def test_gradients_reach_every_parameter():
    for arrangement in ARRANGEMENTS:
        talker = make_talker(replace(TINY, arrangement=arrangement))
        talker(make_batch(make_samples(), TOKENIZER, talker.config), seeded()).loss.backward()
        silent = [
            name
            for name, p in talker.named_parameters()
            if p.grad is None or not torch.isfinite(p.grad).all() or not p.grad.abs().any()
        ]
        assert not silent, (arrangement, silent)


def test_bfloat16_autocast():
    """The step under autocast, as training runs it: finite, and near the float32 losses."""
    talker, batch = make_talker(), make_batch(make_samples(), TOKENIZER, TINY)
    exact = talker(batch, seeded()).losses()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = talker(batch, seeded())
    output.loss.backward()
    assert output.losses() == pytest.approx(exact, rel=0.03)
    assert all(torch.isfinite(p.grad).all() for p in talker.parameters())


# ---- arrangements ----


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("stream", ["audio", "motion"])
def test_a_patch_never_sees_itself_or_the_future(arrangement, stream):
    config = replace(TINY, arrangement=arrangement)
    talker, L = make_talker(config), 5
    batch = make_batch(make_samples([(4 * L, 4 * L)]), TOKENIZER, config)
    a, other = talker.arrangement, "motion" if stream == "audio" else "audio"
    position = {
        s: predicting_positions(batch.first_slot + 1, L, s, a)[0] for s in ("audio", "motion")
    }
    before = talker(batch, seeded()).hidden[0]
    for j in range(L):
        latents = getattr(batch, stream).clone()
        latents[:, 4 * j : 4 * j + 4] += 1.0
        changed = (
            talker(replace(batch, **{stream: latents}), seeded()).hidden[0] - before
        ).abs().amax(-1) > 1e-7
        assert not changed[position[stream][: j + 1]].any(), "a patch sees itself or its future"
        assert changed[position[stream][j + 1 :]].all(), "a patch does not see its past"
        slot = a.stride * j + a.offset(stream)
        for i in range(L):  # across streams: seen exactly when it stands before
            assert bool(changed[position[other][i]]) == (slot < a.stride * i + a.offset(other))


@settings(max_examples=60, deadline=None)
@given(
    stride=st.integers(1, 2), audio=st.integers(0, 4), motion=st.integers(0, 4), n=st.integers(1, 6)
)
def test_every_patch_has_one_slot(stride, audio, motion, n):
    a = Arrangement(stride, audio, motion)
    for stream in ("audio", "motion"):
        found = [a.patch_at(stream, slot) for slot in range(a.num_slots(n))]
        assert [i for i in found if i is not None][:n] == list(range(n))
    assert [i for slot in range(a.num_slots(n)) if (i := a.last_patch(slot)) is not None] == list(
        range(n)
    )
    tokens = torch.arange(1.0, n + 1).reshape(1, n, 1)
    slots = lay_out(tokens, 100 * tokens, a)
    assert slots.shape == (1, a.num_slots(n), 1) and slots.sum() == 101 * tokens.sum()
    row = place_slots(
        torch.full((1, 20, 1), -1.0), slots, torch.tensor([2]), torch.tensor([a.num_slots(n)])
    )[0, :, 0]
    assert (row[:2] == -1).all() and (row[2 + a.num_slots(n) :] == -1).all()


# ---- generation ----


def prefix_of(text="hello"):
    return torch.tensor([TOKENIZER.prompt(text).prefix])


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("video", [True, False])
def test_generation_walks_the_row_of_training(arrangement, video):
    """With both streams given, generation sees the hidden states of the training forward,
    in every arrangement.
    """
    config = replace(TINY, arrangement=arrangement)
    talker, L = make_talker(config), 6
    sample = make_samples([(4 * L, 4 * L if video else None)])[0]
    output = talker(make_batch([sample], TOKENIZER, config), seeded())
    motion = sample.motion[None] if video else None
    run = talker.generate(
        prefix_of(sample.text),
        sample.speaker[None],
        motion[:, 0] if video else None,
        max_patches=L,
        generator=seeded(),
        audio=sample.audio[None],
        motion=motion,
    )
    patches, a = list(run), talker.arrangement
    first = len(TOKENIZER.prompt(sample.text).prefix) + 1
    ends = [first + slot for slot in range(a.num_slots(L)) if a.last_patch(slot) is not None]
    torch.testing.assert_close(
        torch.cat([p.stop_logit for p in patches]),
        output.stop_logits[0, ends],
        rtol=1e-4,
        atol=1e-5,
    )
    assert torch.equal(torch.cat([p.audio for p in patches], 1)[0], sample.audio)
    assert (patches[0].motion is None) == (not video)


@pytest.mark.parametrize("given_stream", ["audio", "motion", None])
@pytest.mark.parametrize("arrangement", ["sum", "audio-motion", "delay-1"])
def test_a_mode_is_which_stream_is_given(given_stream, arrangement):
    config = replace(TINY, arrangement=arrangement)
    talker, g = make_talker(config), seeded()
    latents = {
        "audio": torch.randn(1, 16, config.audio_dim, generator=g),
        "motion": torch.randn(1, 16, config.motion_dim, generator=g),
    }
    given = {given_stream: latents[given_stream]} if given_stream else {}
    run = lambda seed: list(
        talker.generate(
            prefix_of(),
            torch.zeros(1, 6),
            latents["motion"][:, 0],
            max_patches=4,
            generator=seeded(seed),
            sampling=FAST,
            **given,
        )
    )
    one, same, other = run(1), run(1), run(2)
    assert [p.index for p in one] == [0, 1, 2, 3]
    for s in ("audio", "motion"):
        made = [torch.cat([getattr(p, s) for p in r], 1) for r in (one, same, other)]
        assert torch.equal(made[0], made[1])
        assert torch.equal(made[0], made[2]) == (s == given_stream)
        if s == given_stream:
            assert torch.equal(made[0], latents[s])


def test_a_batch_generates_what_its_rows_generate():
    """Prompts of different lengths, padded on the right, with given noise."""
    talker, texts = make_talker(), ["a", "a longer text to say"]
    rows = [TOKENIZER.prompt(text).prefix for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [TOKENIZER.pad_id] * (width - len(row)) for row in rows])
    noise = {
        s: torch.randn(4, 2, 4, d, generator=seeded())
        for s, d in (("audio", TINY.audio_dim), ("motion", TINY.motion_dim))
    }
    speaker, first = (
        torch.randn(2, 6, generator=seeded(1)),
        torch.randn(2, TINY.motion_dim, generator=seeded(2)),
    )
    both = list(
        talker.generate(
            ids,
            speaker,
            first,
            max_patches=4,
            prefix_lengths=torch.tensor([len(r) for r in rows]),
            noise=noise,
            sampling=FAST,
        )
    )
    for b, row in enumerate(rows):
        one = list(
            talker.generate(
                torch.tensor([row]),
                speaker[b : b + 1],
                first[b : b + 1],
                max_patches=4,
                noise={s: n[:, b : b + 1] for s, n in noise.items()},
                sampling=FAST,
            )
        )
        for together, alone in zip(both, one):
            torch.testing.assert_close(together.audio[b], alone.audio[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(together.motion[b], alone.motion[0], rtol=1e-4, atol=1e-5)


def test_stop_rule():
    rule = StopRule(streak=2, min_patches=3)
    ends = [
        rule.update(torch.tensor([p, 0.1]), n).tolist()
        for n, p in enumerate([0.9, 0.9, 0.9, 0.2, 0.6, 0.7], 1)
    ]
    assert [e[0] for e in ends] == [False, False, False, False, False, True] and not any(
        e[1] for e in ends
    )
    talker = make_talker()
    with torch.no_grad():
        talker.stop.head.weight.zero_()  # probability 1/2 everywhere: an alarm at each patch
    assert (
        len(
            list(
                talker.generate(
                    prefix_of(),
                    torch.zeros(1, 6),
                    max_patches=20,
                    generator=seeded(),
                    sampling=FAST,
                )
            )
        )
        == 9
    )
    assert (
        len(
            list(
                talker.generate(
                    prefix_of(), torch.zeros(1, 6), max_patches=5, generator=seeded(), sampling=FAST
                )
            )
        )
        == 5
    )
    with pytest.raises(ValueError, match="threshold"):
        StopRule(threshold=0.0)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 10), st.integers(0, 200)), min_size=1, max_size=4),
    T=st.integers(1, 220),
)
def test_stop_labels_by_loops(lengths, T):
    labels, weight = stop_labels(
        torch.tensor([f for f, _ in lengths]), torch.tensor([n for _, n in lengths]), T
    )
    zeros = []
    for row, (first, n) in zip(labels.tolist(), lengths):
        complete = 0 < n <= 187 and first + n <= T
        want = [-100] * T
        for k in range(n):
            if first + k < T:
                want[first + k] = (
                    (1 if k == n - 1 else -100 if k >= n - 3 else 0) if complete else 0
                )
        assert row == want
        zeros += [want.count(0)] if complete else []
    assert weight.item() == pytest.approx(sum(zeros) / len(zeros) if zeros else 1.0)
    assert torch.isfinite(stop_loss(torch.zeros(labels.shape), labels, weight))


# ---- files ----


def test_save_and_load(tmp_path):
    talker = make_talker()
    talker.save_pretrained(tmp_path)
    again = Talker.from_pretrained(tmp_path)
    assert again.config == TINY and not again.training
    batch = make_batch(make_samples(), TOKENIZER, TINY)
    assert all(
        torch.equal(a, b)
        for a, b in zip(talker.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert talker(batch, seeded()).losses() == pytest.approx(
        again(batch, seeded()).losses(), rel=1e-6
    )  # memory is aligned otherwise: other rounding
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def released_file(talker, folder, rename=lambda name: name, **extra):
    """The talker's weights as the release would have stored them."""
    folder.mkdir(exist_ok=True)
    tensors = {
        rename(to_released(name)): value.clone() for name, value in talker.state_dict().items()
    }
    save_file(tensors | extra, folder / "model.safetensors")


def test_released_layout(tmp_path):
    """Released names, with tensors that are not needed, and with the names of older checkpoints."""
    talker, batch = make_talker(), make_batch(make_samples(), TOKENIZER, TINY)
    extra = {
        "llm.lm_head.weight": torch.zeros(2, 2),
        "speech_cfm.estimator.decoder.rope.w": torch.zeros(3),
        "spk.layer": torch.zeros(1),
    }
    released_file(talker, tmp_path / "new", **extra)

    def older(name):
        name = name.replace("speech_patch_encoder.", "patch_encoder.").replace(
            "patch_encoder.input_proj", "patch_encoder.in_proj"
        )
        return name.replace(
            "global_cond_proj", "spk_proj" if name.startswith("speech") else "first_motion_proj"
        )

    released_file(talker, tmp_path / "old", older)
    for folder in ("new", "old"):
        again = Talker.from_pretrained(tmp_path / folder, config=TINY)
        assert talker(batch, seeded()).losses() == pytest.approx(
            again(batch, seeded()).losses(), rel=1e-6
        )
    with pytest.raises(
        ValueError, match="is missing"
    ):  # without a configuration of ours, the released sizes are expected
        Talker.from_pretrained(tmp_path / "new")


def test_hub_names(tmp_path, monkeypatch):
    make_talker().save_pretrained(tmp_path)
    import huggingface_hub

    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **_: {"owner/model": tmp_path}[name]
    )
    assert Talker.from_pretrained("owner/model").config == TINY


@pytest.mark.parametrize("fault", ["missing", "shape", "unknown", "cut", "none", "config"])
def test_a_wrong_checkpoint_is_refused_by_name(tmp_path, fault):
    make_talker().save_pretrained(tmp_path)
    path, error, match = tmp_path / "model.safetensors", ValueError, "stop.proj.bias"
    tensors = load_file(path)
    if fault == "missing":
        del tensors["stop.proj.bias"]
    elif fault == "shape":
        tensors["stop.proj.bias"] = torch.zeros(3)
    elif fault == "unknown":
        tensors["stop.proj.bias2"] = torch.zeros(3)
    save_file(tensors, path)
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-100])
        match = "cut off"
    elif fault == "none":
        path.unlink()
        error, match = FileNotFoundError, "safetensors"
    elif fault == "config":
        content = json.loads((tmp_path / "config.json").read_text()) | {"colour": "blue"}
        (tmp_path / "config.json").write_text(json.dumps(content))
        match = "colour"
    with pytest.raises(error, match=match):
        Talker.from_pretrained(tmp_path)


def test_names_no_rule_covers():
    for function in (from_released, to_released):
        with pytest.raises(ValueError, match="no part"):
            function("dictionary.weight")
    with pytest.raises(FileNotFoundError):
        load_weights(torch.nn.Linear(1, 1), "/nowhere/at/all")


# ---- bad input ----


def batch_with(**changes):
    batch = make_batch(make_samples(), TOKENIZER, TINY)
    return replace(
        batch, **{name: change(getattr(batch, name)) for name, change in changes.items()}
    )


def with_nan(x):
    x = x.clone()
    x.flatten()[0] = float("nan")
    return x


@pytest.mark.parametrize(
    "field, change, error",
    [
        ("audio", with_nan, ValueError),
        ("motion", with_nan, ValueError),
        ("speaker", with_nan, ValueError),
        ("audio", lambda x: x[..., :3], ValueError),
        ("motion", lambda x: x[:2], ValueError),
        ("speaker", lambda x: x[0], ValueError),
        ("audio", lambda x: x.long(), TypeError),
        ("input_ids", lambda x: x.float(), TypeError),
        ("input_ids", lambda x: x + 600, ValueError),
        ("audio_length", lambda x: x * 0, ValueError),
        ("audio_length", lambda x: x + 30, ValueError),
        ("motion_length", lambda x: x - 30, ValueError),
        ("num_tokens", lambda x: x + 30, ValueError),
        ("num_tokens", lambda x: x - 5, ValueError),
        ("first_slot", lambda x: x * 0, ValueError),
        ("input_ids", lambda x: x.repeat(1, 60), ValueError),
        ("speaker", lambda x: x.numpy(), TypeError),
    ],
)
def test_a_bad_batch_is_refused_by_name(field, change, error):
    bad = batch_with(**{field: change})
    with pytest.raises(error, match=field if field != "num_tokens" else "num_tokens|first_slot"):
        make_talker()(bad, seeded())


@pytest.mark.parametrize(
    "change, error, match",
    [
        ({"text": ""}, ValueError, "text"),
        ({"text": "so " * 3000}, ValueError, "text"),
        ({"text": 5}, TypeError, "text"),
        ({"audio": torch.zeros(0, 5)}, ValueError, r"samples\[1\].audio"),
        ({"audio": torch.zeros(4, 6)}, ValueError, r"samples\[1\].audio"),
        ({"motion": torch.zeros(4, 7).long()}, TypeError, r"samples\[1\].motion"),
        ({"speaker": torch.full((6,), float("inf"))}, ValueError, r"samples\[1\].speaker"),
        ({"speaker": None}, TypeError, r"samples\[1\].speaker"),
    ],
)
def test_a_bad_sample_is_refused_by_name(change, error, match):
    samples = make_samples()
    samples[1] = replace(samples[1], **change)
    with pytest.raises(error, match=match):
        make_batch(samples, TOKENIZER, TINY)


def test_other_refusals():
    talker, batch = make_talker(), make_batch(make_samples(), TOKENIZER, TINY)
    with pytest.raises(ValueError, match="Generator"):
        talker(batch)
    with pytest.raises(ValueError, match="at least one"):
        make_batch([], TOKENIZER, TINY)
    with pytest.raises(TypeError, match="TalkerBatch"):
        check_batch({"audio": 1}, TINY)
    with pytest.raises(ValueError, match="huge"):
        Talker("huge")
    for bad in ("delay-0", "delay", "both", None, ""):
        with pytest.raises(ValueError, match="arrangement"):
            parse_arrangement(bad)
    for field in ("num_draws", "patch_size", "vocab_size"):
        with pytest.raises(ValueError, match=field):
            TalkerConfig(**{field: 0})


@pytest.mark.parametrize(
    "change, match",
    [
        ({"prefix_ids": torch.zeros(1, 0, dtype=torch.int64)}, "prefix_ids"),
        ({"prefix_ids": torch.tensor([[9999]])}, "prefix_ids"),
        ({"prefix_ids": torch.zeros(1, 2)}, "prefix_ids"),
        ({"speaker": torch.zeros(1, 5)}, "speaker"),
        ({"speaker": torch.full((1, 6), float("nan"))}, "speaker"),
        ({"first_motion": torch.zeros(2, 7)}, "first_motion"),
        ({"audio": torch.zeros(1, 6, 5)}, "audio"),
        ({"motion": torch.zeros(1, 8, 3)}, "motion"),
        ({"first_motion": None, "motion": torch.zeros(1, 8, 7)}, "first_motion"),
        ({"prefix_lengths": torch.tensor([4])}, "prefix_lengths"),
        ({"prefix_lengths": torch.tensor([0])}, "prefix_lengths"),
        ({"max_patches": 0}, "max_patches"),
        ({"max_patches": 5000}, "max_patches"),
        ({"generator": None}, "generator"),
    ],
)
def test_generation_refuses_at_once(change, match):
    arguments = {
        "prefix_ids": torch.tensor([[1, 2, 3]]),
        "speaker": torch.zeros(1, 6),
        "first_motion": torch.zeros(1, 7),
        "max_patches": 3,
        "generator": seeded(),
    } | change
    with pytest.raises(ValueError, match=match):
        make_talker().generate(**arguments)  # no patch is asked for: the refusal comes before


# ---- no loops ----


def count_calls(talker, run):
    """How often each part is called while `run` runs."""
    parts = {
        "audio head": talker.audio_head,
        "motion head": talker.motion_head,
        "audio encoder": talker.patches.audio_encoder,
        "motion encoder": talker.patches.motion_encoder,
        "backbone": talker.backbone,
        "stop": talker.stop,
    }
    calls = dict.fromkeys(parts, 0)

    def hook(name):
        def count(*_):
            calls[name] += 1

        return count

    handles = [part.register_forward_hook(hook(name)) for name, part in parts.items()]
    run()
    for handle in handles:
        handle.remove()
    return calls


@pytest.mark.parametrize("num_draws", [1, 3])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_no_python_loop_over_samples_patches_or_draws(arrangement, num_draws):
    """A training step calls each part once, whatever the number of samples, patches and draws."""
    talker = make_talker(replace(TINY, arrangement=arrangement, num_draws=num_draws))
    for lengths in ([(8, 8)], [(60, 56)], [(26, 24), (14, None), (12, 20), (40, 40), (9, 9)]):
        batch = make_batch(make_samples(lengths), TOKENIZER, talker.config)
        calls = count_calls(talker, lambda: talker(batch, seeded()))
        assert calls == dict.fromkeys(calls, 1), (lengths, calls)


def test_generation_calls_do_not_depend_on_the_number_of_rows():
    """Patch after patch must wait; rows must not.

    One backbone call for the text and one per patch, nine looks of each head per patch.
    """
    talker, L = make_talker(), 3
    for B in (1, 4):
        ids = prefix_of().repeat(B, 1)
        run = lambda: list(
            talker.generate(
                ids,
                torch.zeros(B, 6),
                torch.zeros(B, 7),
                max_patches=L,
                generator=seeded(),
                sampling=Sampling(num_steps=10),
            )
        )
        assert count_calls(talker, run) == {
            "audio head": 9 * L,
            "motion head": 9 * L,
            "audio encoder": L,
            "motion encoder": L,
            "backbone": 1 + L,
            "stop": L,
        }
