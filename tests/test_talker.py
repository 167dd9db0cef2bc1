"""The whole model: equal to the reference, blind to padding, causal in every arrangement, honest
about bad input.
"""

import json
from dataclasses import replace

import parity
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from talker_t2av.model.arrangements import (
    ArrangedConfig,
    ArrangedTalker,
    Arrangement,
    lay_out,
    make_arranged_batch,
    parse_arrangement,
)
from talker_t2av.model.config import PRESETS, TalkerConfig, from_released, load_weights, to_released
from talker_t2av.model.flow import Sampling, draw_flow
from talker_t2av.model.sequence import (
    check_batch,
    make_batch,
    place_patches,
    talking_sample,
)
from talker_t2av.model.stop import StopRule, stop_labels, stop_loss
from talker_t2av.model.talker import Talker
from talker_t2av.model.text import load_tokenizer

TINY = replace(
    PRESETS["tiny"],
    hidden_size=32,
    head_dim=8,
    intermediate_size=48,
    num_head_layers=1,
    num_draws=2,
).with_sizes(5, 7, 6)
DIMS = {"audio": 5, "motion": 7}
ARRANGEMENTS = ["sum", "audio-motion", "motion-audio", "delay-1", "delay-3"]
TOKENIZER = load_tokenizer("tiny")
FAST = Sampling(num_steps=3)
NEVER = StopRule(threshold=1.0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_samples(lengths=((26, 24), (14, None), (12, 20)), seed=0):
    g = seeded(seed)
    random = lambda *shape: torch.randn(*shape, generator=g)
    return [
        talking_sample(
            "hello " * (i + 1), random(n, 5), None if m is None else random(m, 7), random(6)
        )
        for i, (n, m) in enumerate(lengths)
    ]


def arranged(arrangement, config=TINY):
    """The configuration with another arrangement; every arrangement but None is run by an
    `ArrangedTalker`.
    """
    if arrangement is None:
        return config
    return ArrangedConfig(**vars(config), arrangement=arrangement)


def batch_of(samples, config=TINY):
    make = make_arranged_batch if isinstance(config, ArrangedConfig) else make_batch
    return make(samples, TOKENIZER, config)


def make_talker(config=TINY, seed=0):
    torch.manual_seed(seed)
    talker = (ArrangedTalker if isinstance(config, ArrangedConfig) else Talker)(config)
    with torch.no_grad():
        talker.streams["motion"].padding.normal_()  # starts at zero, which would hide mistakes
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
    assert abs(loss(talker, replace(batch, first_patch=batch.first_patch - 1)) / want - 1) > 1e-5
    with torch.no_grad():
        talker.task_embedding.weight.copy_(talker.task_embedding.weight.flip(0))
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
            "audio": -(-len(sample.latents["audio"]) // 4),
            "motion": len(sample.latents.get("motion", ())) // 4,
        }
        rates = {"hidden": 0.1, "previous_patch": 0.05}
        alone.append(
            {
                s: draw_flow(
                    torch.zeros(max(n, 1), 4, DIMS[s]),
                    rates,
                    seeded(seed + 10 * i),
                    config.num_draws,
                )
                for s, n in rows.items()
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
                k: torch.cat([d.drop_uniform[k] for d in join(s)])
                for k in ("hidden", "previous_patch")
            },
        )
        for s in ("audio", "motion")
    }
    return alone, both


def beyond_the_end(stream, value):
    """The stream with other numbers in whole patches beyond each sample's last frame, which nobody
    may read.
    """
    L = stream.patches.shape[1]
    beyond = torch.arange(L) >= -(-stream.num_frames // 4)[:, None]
    return replace(stream, patches=torch.where(beyond[..., None, None], value, stream.patches))


@pytest.mark.parametrize("arrangement", [None, *ARRANGEMENTS])
def test_padding_changes_nothing(arrangement):
    config = arranged(arrangement)
    talker, samples = make_talker(config), make_samples()
    alone, both = draws_of(samples, config)
    batch = batch_of(samples, config)
    batch = replace(
        batch,
        streams={name: beyond_the_end(stream, 50.0) for name, stream in batch.streams.items()},
        input_ids=torch.where(
            torch.arange(batch.input_ids.shape[1]) >= batch.num_tokens[:, None], 9, batch.input_ids
        ),
    )
    together = talker(batch, draws=both)
    total, rows = {"audio": 0.0, "motion": 0.0}, {"audio": 0, "motion": 0}
    for b, (sample, draws) in enumerate(zip(samples, alone)):
        one = talker(batch_of([sample], config), draws=draws)
        n = one.hidden.shape[1]
        torch.testing.assert_close(together.hidden[b, :n], one.hidden[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            together.stop_logits[b, :n], one.stop_logits[0], rtol=1e-5, atol=1e-5
        )
        for s, loss in (("audio", one.losses["audio"]), ("motion", one.losses["motion"])):
            total[s] += loss.item() * draws["rows"][s]
            rows[s] += draws["rows"][s]
    assert together.losses["audio"].item() == pytest.approx(
        total["audio"] / rows["audio"], rel=1e-5
    )
    assert together.losses["motion"].item() == pytest.approx(
        total["motion"] / rows["motion"], rel=1e-5
    )


def test_longer_padding_gives_the_same_losses():
    talker, samples = make_talker(), make_samples()
    batch = batch_of(samples)
    pad = lambda x, n: torch.nn.functional.pad(x, (0, 0) * (x.ndim - 2) + (0, n))
    wider = replace(batch, input_ids=pad(batch.input_ids, 9))
    a, b = talker(batch, seeded()), talker(wider, seeded())
    assert a.numbers() == pytest.approx(b.numbers(), rel=1e-6)


def test_same_seed_same_losses():
    talker, batch = make_talker(), batch_of(make_samples())
    assert talker(batch, seeded(3)).numbers() == talker(batch, seeded(3)).numbers()
    assert talker(batch, seeded(3)).numbers() != talker(batch, seeded(4)).numbers()


def test_no_motion_and_single_patches():
    """A batch without video, and clips of one patch, have no loss where they have no target."""
    talker = make_talker()
    output = talker(batch_of(make_samples([(14, None), (9, None)])), seeded())
    assert output.losses["motion"] == 0 and output.losses["audio"] > 0
    output = talker(batch_of(make_samples([(4, 4), (3, 7)])), seeded())
    assert (
        output.losses["audio"] == 0 and output.losses["motion"] == 0 and torch.isfinite(output.loss)
    )


def test_gradients_reach_every_parameter():
    for arrangement in (None, *ARRANGEMENTS):
        talker = make_talker(arranged(arrangement))
        talker(batch_of(make_samples(), talker.config), seeded()).loss.backward()
        silent = [
            name
            for name, p in talker.named_parameters()
            if p.grad is None or not torch.isfinite(p.grad).all() or not p.grad.abs().any()
        ]
        assert not silent, (arrangement, silent)


def test_bfloat16_autocast():
    """The step under autocast, as training runs it: finite, and near the float32 losses."""
    talker, batch = make_talker(), batch_of(make_samples())
    exact = talker(batch, seeded()).numbers()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = talker(batch, seeded())
    output.loss.backward()
    assert output.numbers() == pytest.approx(exact, rel=0.03)
    assert all(torch.isfinite(p.grad).all() for p in talker.parameters())


# ---- arrangements ----


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("stream", ["audio", "motion"])
def test_a_patch_never_sees_itself_or_the_future(arrangement, stream):
    config = arranged(arrangement)
    talker, L = make_talker(config), 5
    batch = batch_of(make_samples([(4 * L, 4 * L)]), config)
    a, other = talker.arrangement, "motion" if stream == "audio" else "audio"
    first = int(batch.first_patch[0]) + 1
    place = {s: [first + a.stride * i + a.offset(s) for i in range(L)] for s in ("audio", "motion")}
    before = talker(batch, seeded()).hidden[0]
    for j in range(L):
        patches = batch.streams[stream].patches.clone()
        patches[:, j] += 1.0
        streams = batch.streams | {stream: replace(batch.streams[stream], patches=patches)}
        changed = (talker(replace(batch, streams=streams), seeded()).hidden[0] - before).abs().amax(
            -1
        ) > 1e-7
        assert not any(changed[place[stream][i] - 1] for i in range(j + 1)), (
            "a patch sees itself or its future"
        )
        assert all(changed[place[stream][i] - 1] for i in range(j + 1, L)), (
            "a patch does not see its past"
        )
        for i in range(L):  # across streams: seen exactly when it stands before
            assert bool(changed[place[other][i] - 1]) == (place[stream][j] < place[other][i])


def test_sum_is_an_arrangement_like_the_others():
    """The default talker and an arranged one with "sum" are the same model."""
    plain, other = make_talker(), make_talker(arranged("sum"))
    other.load_state_dict(plain.state_dict())
    samples = make_samples()
    a, b = plain(batch_of(samples), seeded()), other(batch_of(samples, other.config), seeded())
    assert a.numbers() == pytest.approx(b.numbers(), rel=1e-6)
    torch.testing.assert_close(a.hidden, b.hidden)


@settings(max_examples=60, deadline=None)
@given(
    stride=st.integers(1, 2), audio=st.integers(0, 4), motion=st.integers(0, 4), n=st.integers(1, 6)
)
def test_every_patch_has_one_slot(stride, audio, motion, n):
    a = Arrangement(stride, audio, motion)
    for stream in ("audio", "motion"):
        found = [a.patch_at(stream, slot) for slot in range(a.num_positions(n))]
        assert [i for i in found if i is not None][:n] == list(range(n))
    assert [
        i for slot in range(a.num_positions(n)) if (i := a.last_patch(slot)) is not None
    ] == list(range(n))
    tokens = torch.arange(1.0, n + 1).reshape(1, n, 1)
    slots = lay_out({"audio": tokens, "motion": 100 * tokens}, a)
    assert slots.shape == (1, a.num_positions(n), 1) and slots.sum() == 101 * tokens.sum()
    row = place_patches(
        torch.full((1, 20, 1), -1.0), slots, torch.tensor([2]), torch.tensor([a.num_positions(n)])
    )[0, :, 0]
    assert (row[:2] == -1).all() and (row[2 + a.num_positions(n) :] == -1).all()


# ---- generation ----


def prefix_of(text="hello"):
    return torch.tensor([TOKENIZER.prompt(text).prefix])


def both(speaker, first_motion=None):
    """Global conditions of both streams, or of sound alone."""
    return {"audio": speaker} | ({} if first_motion is None else {"motion": first_motion})


@pytest.mark.parametrize("arrangement", [None, *ARRANGEMENTS])
@pytest.mark.parametrize("video", [True, False])
def test_generation_walks_the_sequence_of_training(arrangement, video):
    """With all streams given, generation sees the hidden states of the training forward, in every
    arrangement.
    """
    config = arranged(arrangement)
    talker, L = make_talker(config), 6
    sample = make_samples([(4 * L, 4 * L if video else None)])[0]
    output = talker(batch_of([sample], config), seeded())
    given = {name: latents[None] for name, latents in sample.latents.items()}
    conditions = {name: condition[None] for name, condition in sample.conditions.items()}
    patches = list(
        talker.generate(
            prefix_of(sample.text), conditions, max_patches=L, generator=seeded(), given=given
        )
    )
    a = parse_arrangement(arrangement or "sum")
    first = len(TOKENIZER.prompt(sample.text).prefix) + 1
    ends = [
        first + position
        for position in range(a.num_positions(L))
        if a.last_patch(position) is not None
    ]
    torch.testing.assert_close(
        torch.cat([p.stop_logit for p in patches]),
        output.stop_logits[0, ends],
        rtol=1e-4,
        atol=1e-5,
    )
    assert torch.equal(torch.cat([p.audio for p in patches], 1)[0], sample.latents["audio"])
    assert (patches[0].motion is None) == (not video)


@pytest.mark.parametrize("given_stream", ["audio", "motion", None])
@pytest.mark.parametrize("arrangement", [None, "sum", "audio-motion", "delay-1"])
def test_a_mode_is_which_stream_is_given(given_stream, arrangement):
    talker, g = make_talker(arranged(arrangement)), seeded()
    latents = {
        "audio": torch.randn(1, 16, 5, generator=g),
        "motion": torch.randn(1, 16, 7, generator=g),
    }
    given = {given_stream: latents[given_stream]} if given_stream else {}
    conditions = both(torch.zeros(1, 6), latents["motion"][:, 0])
    run = lambda seed: list(
        talker.generate(
            prefix_of(),
            conditions,
            max_patches=4,
            generator=seeded(seed),
            sampling=FAST,
            given=given,
            stop_rule=NEVER,
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


def test_a_batch_generates_what_its_samples_generate():
    """Prompts of different lengths, padded on the right, with given noise."""
    talker, texts = make_talker(), ["a", "a longer text to say"]
    rows = [TOKENIZER.prompt(text).prefix for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [TOKENIZER.pad_id] * (width - len(row)) for row in rows])
    noise = {s: torch.randn(4, 2, 4, d, generator=seeded()) for s, d in DIMS.items()}
    speaker, first = torch.randn(2, 6, generator=seeded(1)), torch.randn(2, 7, generator=seeded(2))
    options = {"max_patches": 4, "sampling": FAST, "stop_rule": NEVER}
    together = list(
        talker.generate(
            ids,
            both(speaker, first),
            prompt_lengths=torch.tensor([len(r) for r in rows]),
            noise=noise,
            **options,
        )
    )
    for b, row in enumerate(rows):
        alone = talker.generate(
            torch.tensor([row]),
            both(speaker[b : b + 1], first[b : b + 1]),
            noise={s: n[:, b : b + 1] for s, n in noise.items()},
            **options,
        )
        for joint, one in zip(together, alone, strict=True):
            torch.testing.assert_close(joint.audio[b], one.audio[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(joint.motion[b], one.motion[0], rtol=1e-4, atol=1e-5)


def test_stop_rule():
    """Alarms count in a row, from `min_patches` on; each run counts anew."""
    rule = StopRule(streak=2, min_patches=3)
    for _ in range(2):
        counter = rule.counter(2)
        ends = [
            counter.update(torch.tensor([p, 0.1]), n).tolist()
            for n, p in enumerate([0.9, 0.9, 0.9, 0.2, 0.6, 0.7], 1)
        ]
        assert [e[0] for e in ends] == [False, False, False, False, False, True] and not any(
            e[1] for e in ends
        )
    talker = make_talker()
    with torch.no_grad():
        talker.stop.head.weight.zero_()  # probability 1/2 everywhere: an alarm at each patch
    run = lambda limit, rule: len(
        list(
            talker.generate(
                prefix_of(),
                both(torch.zeros(1, 6)),
                max_patches=limit,
                generator=seeded(),
                sampling=FAST,
                stop_rule=rule,
            )
        )
    )
    released = StopRule(streak=3, min_patches=7)
    assert [run(20, released), run(20, released), run(5, released), run(20, StopRule())] == [
        9,
        9,
        5,
        3,
    ]
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
    batch = batch_of(make_samples())
    assert all(
        torch.equal(a, b)
        for a, b in zip(talker.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert talker(batch, seeded()).numbers() == pytest.approx(
        again(batch, seeded()).numbers(), rel=1e-6
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
    talker, batch = make_talker(), batch_of(make_samples())
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
        assert talker(batch, seeded()).numbers() == pytest.approx(
            again(batch, seeded()).numbers(), rel=1e-6
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


def batch_with(field, change):
    """A batch with a changed field; of a stream it is named STREAM.FIELD."""
    batch = batch_of(make_samples())
    stream, dot, name = field.partition(".")
    if not dot:
        return replace(batch, **{field: change(getattr(batch, field))})
    changed = replace(batch.streams[stream], **{name: change(getattr(batch.streams[stream], name))})
    return replace(batch, streams=batch.streams | {stream: changed})


def with_nan(x):
    x = x.clone()
    x.flatten()[0] = float("nan")
    return x


@pytest.mark.parametrize(
    "field, change, error",
    [
        ("audio.patches", with_nan, ValueError),
        ("motion.targets", with_nan, ValueError),
        ("audio.condition", with_nan, ValueError),
        ("audio.patches", lambda x: x[..., :3], ValueError),
        ("motion.patches", lambda x: x[:2], ValueError),
        ("audio.condition", lambda x: x[0], ValueError),
        ("audio.patches", lambda x: x.long(), TypeError),
        ("input_ids", lambda x: x.float(), TypeError),
        ("input_ids", lambda x: x + 600, ValueError),
        ("audio.num_frames", lambda x: x * 0, ValueError),
        ("motion.num_frames", lambda x: x - 30, ValueError),
        ("motion.is_target", lambda x: x.long(), TypeError),
        ("audio.is_read", lambda x: x[:1], ValueError),
        ("num_patches", lambda x: x + 30, ValueError),
        ("num_patches", lambda x: x * 0, ValueError),
        ("num_tokens", lambda x: x + 30, ValueError),
        ("num_tokens", lambda x: x - 5, ValueError),
        ("first_patch", lambda x: x * 0, ValueError),
        ("input_ids", lambda x: x.repeat(1, 60), ValueError),
        ("audio.condition", lambda x: x.numpy(), TypeError),
        ("task", lambda x: x + 2, ValueError),
        ("streams", lambda x: {"audio": x["audio"]}, ValueError),
    ],
)
def test_a_bad_batch_is_refused_by_name(field, change, error):
    named = field.split(".")[-1]
    with pytest.raises(
        error, match=f"{named}|first_patch" if named in ("num_tokens", "num_patches") else named
    ):
        make_talker()(batch_with(field, change), seeded())


@pytest.mark.parametrize(
    "field, value, error, match",
    [
        ("text", "", ValueError, "text"),
        ("text", "so " * 3000, ValueError, "text"),
        ("text", 5, TypeError, "text"),
        ("audio", torch.zeros(0, 5), ValueError, r"samples\[1\].latents\['audio'\]"),
        ("audio", torch.zeros(4, 6), ValueError, r"samples\[1\].latents\['audio'\]"),
        ("motion", torch.zeros(4, 7).long(), TypeError, r"samples\[1\].latents\['motion'\]"),
        ("speaker", torch.full((6,), float("inf")), ValueError, r"samples\[1\].conditions"),
        ("speaker", None, TypeError, r"samples\[1\].conditions"),
    ],
)
def test_a_bad_sample_is_refused_by_name(field, value, error, match):
    parts = {
        "text": "hello",
        "audio": torch.zeros(8, 5),
        "motion": torch.zeros(8, 7),
        "speaker": torch.zeros(6),
    } | {field: value}
    with pytest.raises(error, match=match):
        batch_of([make_samples()[0], talking_sample(**parts)])


@pytest.mark.parametrize(
    "change",
    [
        lambda sample: replace(sample, latents={"motion": sample.latents["motion"]}),
        lambda sample: replace(sample, latents=sample.latents | {"hands": torch.zeros(4, 2)}),
    ],
)
def test_a_sample_with_too_few_or_unknown_streams_is_refused(change):
    with pytest.raises(ValueError, match=r"samples\[0\].latents"):
        batch_of([change(make_samples()[0])])


def test_other_refusals():
    talker, batch = make_talker(), batch_of(make_samples())
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
    with pytest.raises(ValueError, match="latent_dim"):
        TINY.with_streams(audio={"latent_dim": 0})
    for field in ("num_draws", "patch_size", "vocab_size"):
        with pytest.raises(ValueError, match=field):
            TalkerConfig(**{field: 0})


@pytest.mark.parametrize(
    "change, match",
    [
        ({"prompt_ids": torch.zeros(1, 0, dtype=torch.int64)}, "prompt_ids"),
        ({"prompt_ids": torch.tensor([[9999]])}, "prompt_ids"),
        ({"prompt_ids": torch.zeros(1, 2)}, "prompt_ids"),
        ({"conditions": both(torch.zeros(1, 5))}, "conditions"),
        ({"conditions": both(torch.full((1, 6), float("nan")))}, "conditions"),
        ({"conditions": {}}, "audio"),
        ({"conditions": both(torch.zeros(1, 6), torch.zeros(2, 7))}, "motion"),
        ({"conditions": both(torch.zeros(1, 6)) | {"hands": torch.zeros(1, 2)}}, "hands"),
        ({"given": {"audio": torch.zeros(1, 6, 5)}}, "audio"),
        ({"given": {"motion": torch.zeros(1, 8, 3)}}, "motion"),
        (
            {"conditions": both(torch.zeros(1, 6)), "given": {"motion": torch.zeros(1, 8, 7)}},
            "given: has 'motion'",
        ),
        ({"prompt_lengths": torch.tensor([4])}, "prompt_lengths"),
        ({"prompt_lengths": torch.tensor([0])}, "prompt_lengths"),
        ({"max_patches": 0}, "max_patches"),
        ({"max_patches": 5000}, "max_patches"),
        ({"generator": None}, "generator"),
    ],
)
def test_generation_refuses_at_once(change, match):
    arguments = {
        "prompt_ids": torch.tensor([[1, 2, 3]]),
        "conditions": both(torch.zeros(1, 6), torch.zeros(1, 7)),
        "max_patches": 3,
        "generator": seeded(),
    } | change
    with pytest.raises(ValueError, match=match):
        make_talker().generate(**arguments)  # no patch is asked for: the refusal comes before


# ---- no loops ----


def count_calls(talker, run):
    """How often each part is called while `run` runs."""
    parts = {
        "audio head": talker.heads["audio"],
        "motion head": talker.heads["motion"],
        "audio encoder": talker.streams["audio"].encoder,
        "motion encoder": talker.streams["motion"].encoder,
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
@pytest.mark.parametrize("arrangement", [None, *ARRANGEMENTS])
def test_no_python_loop_over_samples_patches_or_draws(arrangement, num_draws):
    """A training step calls each part once, whatever the number of samples, patches and draws."""
    talker = make_talker(arranged(arrangement, replace(TINY, num_draws=num_draws)))
    for lengths in ([(8, 8)], [(60, 56)], [(26, 24), (14, None), (12, 20), (40, 40), (9, 9)]):
        batch = batch_of(make_samples(lengths), talker.config)
        calls = count_calls(talker, lambda batch=batch: talker(batch, seeded()))
        assert calls == dict.fromkeys(calls, 1), (lengths, calls)


def test_generation_calls_do_not_depend_on_the_number_of_rows():
    """Patch after patch must wait; rows must not. One backbone call for the text and one per patch,
    nine evaluations of each head per patch.
    """
    talker, L = make_talker(), 3
    for B in (1, 4):
        ids = prefix_of().repeat(B, 1)
        run = lambda ids=ids, B=B: list(
            talker.generate(
                ids,
                both(torch.zeros(B, 6), torch.zeros(B, 7)),
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
