"""The cascade and its reverse: what each half sees and learns, and the chain of both."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from talker_t2av.common.hub import shapes_only
from talker_t2av.inference.generate import Settings
from talker_t2av.model.flow import Sampling
from talker_t2av.model.leading import generate_leading
from talker_t2av.model.talker import Patch, Talker
from talker_t2av.studies.cascade import (
    STUDY_CASCADE,
    STUDY_REVERSE,
    Cascade,
    FirstHalf,
    SecondHalf,
    both_conditions,
    cascade_operations,
    change_cascade,
    half_batches,
    new_cascade,
    train_cascade,
)
from talker_t2av.studies.study_world import STUDY_RECIPE
from talker_t2av.training.latents import LatentSet
from talker_t2av.training.losses import mixed_batches, phoneme_labels, text_tokenizer

P, LEAD = 4, 2
TINY = change_cascade(
    STUDY_CASCADE,
    {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "head_dim": 8,
        "intermediate_size": 32,
        "lead_patches": LEAD,
        "frames": 60,
        "steps": 4,
        "warmup_steps": 1,
        "save_every": 1,
    },
)
ORDERS = {"audio": TINY, "motion": change_cascade(TINY, {"first": "motion"})}
PLAIN = Settings(num_steps=2, temperature=1.0, motion_temperature=1.0)


def make_latents(clips: int = 8, faces: bool = True) -> LatentSet:
    """Clips of 3 to 6 patches of random numbers; the phonemes change in every frame."""
    generator = torch.Generator().manual_seed(0)
    lengths = [P * (3 + i % 4) for i in range(clips)]
    records = []
    for i, n in enumerate(lengths):
        phonemes = [[f"p{t % 7}", t / 25, (t + 1) / 25] for t in range(n)]
        record = {"text": f"clip {i}.", "n_frames": n, "n_motion": n * faces, "phonemes": phonemes}
        records.append(record)
    total = sum(lengths)
    tensors = {
        "audio": torch.randn(total, 5, generator=generator),
        "motion": torch.randn(total * faces, 3, generator=generator),
        "speaker": torch.randn(clips, 2, generator=generator),
    }
    sizes = {"audio_dim": 5, "motion_dim": 3, "speaker_dim": 2}
    names = {"audio": "pca", "motion": "track", "speaker": "small"}
    return LatentSet([(tensors, records)], sizes | {"codecs": names, "fingerprint": {}})


@pytest.fixture(scope="module")
def latents():
    return make_latents()


@pytest.fixture(scope="module")
def cascades(latents):
    """Untrained, one of each order."""
    return {first: new_cascade(recipe, latents)[0].eval() for first, recipe in ORDERS.items()}


def test_as_many_weights_as_the_study_talker():
    config = replace(STUDY_RECIPE.config, vocab_size=261)
    with shapes_only():
        talker = Talker(config)
        for recipe in (STUDY_CASCADE, STUDY_REVERSE):
            sizes = replace(recipe.config, vocab_size=261)
            cascade = Cascade(sizes, text_tokenizer("characters"), recipe.first)
            count = lambda module: sum(p.numel() for p in module.parameters())
            assert count(cascade) == pytest.approx(count(talker), rel=0.01)
            assert count(cascade.first) == pytest.approx(count(cascade.second), rel=0.03)
    assert STUDY_CASCADE.train == STUDY_RECIPE.train
    assert STUDY_CASCADE.frames == STUDY_RECIPE.frames


@pytest.mark.parametrize("first", ORDERS)
def test_the_second_half_hears_so_far_ahead(cascades, latents, first):
    """Another given patch j changes the follower from patch j - lead + 1 on, and nothing before."""
    half = cascades[first].second
    sample = latents[2]  # 5 patches
    given = sample.latents[first]

    def follow(rows):
        return half.draw([sample], [rows], text_tokenizer("characters"), [3], PLAIN)[0]

    plain = follow(given)
    assert plain.shape == sample.latents[half.drawn].shape
    for j in range(5):
        other = given.clone()
        other[P * j : P * (j + 1)] += 3.0
        moved = (follow(other) != plain).any(1).view(5, P).any(1)
        assert moved.tolist() == [i >= j - LEAD + 1 for i in range(5)]


@pytest.mark.parametrize("first", ORDERS)
def test_speaking_and_training_see_the_same_sequence(cascades, latents, first):
    """Stop logits after each slot of a drawn clip: the same from the batch that training makes."""
    half, tokenizer, sample = cascades[first].second, text_tokenizer("characters"), latents[1]
    conditions = {name: value[None] for name, value in sample.conditions.items()}
    patches = list(
        generate_leading(
            half,
            torch.tensor([tokenizer.prompt(sample.text).prefix]),
            conditions,
            lead=half.lead,
            given={first: sample.latents[first][None]},
            max_patches=4,
            generator=torch.Generator().manual_seed(0),
            sampling=Sampling(num_steps=2),
        )
    )
    batch = half.batch([sample], tokenizer)
    with torch.no_grad():
        logits = half(batch, torch.Generator().manual_seed(0)).stop_logits[0]
    at = int(batch.first_patch[0]) + 1 + LEAD
    spoken = torch.cat([patch.stop_logit for patch in patches])
    assert torch.allclose(spoken, logits[at : at + 4], atol=1e-4)


@pytest.mark.parametrize("first", ORDERS)
def test_targets_and_phonemes_belong_together(latents, first):
    """In every slot where a half draws, patch and labels are those of one instant of the clip."""
    recipe = ORDERS[first]
    cascade, halves, table = new_cascade(recipe, latents)
    by_text = {record["text"]: i for i, record in enumerate(latents.records)}
    for trainer in halves:
        half = trainer.talker
        batch = next(half_batches(recipe, half, latents, cascade.tokenizer, table)(0))
        clips, labels = batch["talker"], batch["phonemes"]
        stream = clips.streams[half.drawn]
        for b in range(len(clips)):
            ids = clips.input_ids[b].tolist()
            i = next(
                i
                for text, i in by_text.items()
                if ids[: int(clips.first_patch[b])] == cascade.tokenizer.prompt(text).prefix
            )
            drawn = stream.is_target[b].nonzero()[:, 0]
            whole = stream.targets[b, drawn].flatten(0, 1)
            assert torch.equal(whole, latents[i].latents[half.drawn])
            own = torch.cat([labels[b, P * slot : P * (slot + 1)] for slot in drawn.tolist()])
            assert torch.equal(own, phoneme_labels(latents.records[i], table))
        if half is cascade.second:
            assert not clips.streams[half.given].is_target.any()


def test_steps_take_the_clips_that_the_talker_takes(latents):
    tokenizer = text_tokenizer("characters")
    config = replace(TINY.config, vocab_size=tokenizer.vocab_size).with_sizes(**latents.sizes)
    cascade, halves, table = new_cascade(TINY, latents)
    batches = [mixed_batches(latents, tokenizer, config, table, TINY.frames, TINY.train.seed)(5)]
    for trainer in halves:
        batches.append(half_batches(TINY, trainer.talker, latents, tokenizer, table)(5))
    for _ in range(3):
        plain, *others = (next(one)["talker"] for one in batches)
        for other in others:
            assert torch.equal(other.first_patch, plain.first_patch)
            for own, theirs, end in zip(other.input_ids, plain.input_ids, plain.first_patch):
                assert torch.equal(own[:end], theirs[:end])


@pytest.mark.parametrize("first", ORDERS)
def test_no_weight_lies_idle(latents, first):
    """Every parameter gets a gradient, but the stop predictor of the second half."""
    recipe = ORDERS[first]
    cascade, halves, table = new_cascade(recipe, latents)
    for trainer in halves:
        batches = half_batches(recipe, trainer.talker, latents, cascade.tokenizer, table)
        trainer.train()
        trainer(next(batches(0)), torch.Generator().manual_seed(0))["loss"].backward()
    idle = {
        name
        for name, parameter in cascade.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum()
    }
    assert idle == {"second.stop.proj.weight", "second.stop.proj.bias", "second.stop.head.weight"}


@pytest.mark.parametrize("first", ORDERS)
def test_the_first_half_is_told_both_conditions_and_no_motion(cascades, latents, first):
    half, sample = cascades[first].first, latents[2]
    assert both_conditions(sample).tolist() == [
        *sample.conditions["audio"].tolist(),
        *sample.conditions["motion"].tolist(),
    ]
    draw = lambda sample: half.draw([sample], text_tokenizer("characters"), [3], PLAIN)[0]
    plain = draw(sample)
    empty = {name: torch.zeros_like(rows) for name, rows in sample.latents.items()}
    assert torch.equal(draw(replace(sample, latents=empty)), plain)
    for name in ("audio", "motion"):
        told = sample.conditions | {name: sample.conditions[name] + 1}
        other = draw(replace(sample, conditions=told))
        assert not torch.equal(other[:P], plain[:P])


@pytest.mark.parametrize("first", ORDERS)
def test_a_batch_gives_what_each_gives_alone(cascades, latents, first):
    cascade, samples = cascades[first], [latents[i] for i in range(3)]
    torch.nn.init.constant_(cascade.first.stop.head.weight, 0.0)  # a probability of 0.5: it stops
    settings = replace(PLAIN, min_patches=5)
    batch = cascade.speak(samples, [5, 6, 7], settings)
    for sample, seed, rows in zip(samples, [5, 6, 7], batch):
        (alone,) = cascade.speak([sample], [seed], settings)
        for name, width in (("audio", 5), ("motion", 3)):
            assert rows[name].shape == alone[name].shape == (5 * P, width)
            assert torch.allclose(rows[name], alone[name], atol=1e-4)
    (other,) = cascade.speak(samples[:1], [8], settings)
    assert not torch.allclose(other["audio"], batch[0]["audio"], atol=1e-2)
    assert not torch.allclose(other["motion"], batch[0]["motion"], atol=1e-2)


def test_each_row_ends_at_its_own_stop(latents):
    """Rows end where their stop rule says so, whatever the others do."""
    half = FirstHalf(TINY.config.with_sizes(**latents.sizes), "audio")
    ends = {0: 2, 1: 4}  # row -> last patch
    samples = [latents[0], latents[1]]
    empty = Patch(0, {}, torch.zeros(2), torch.zeros(2, dtype=torch.bool))

    def generate(*arguments, **options):
        for index in range(options["max_patches"]):
            rows = torch.full((2, P, 5), float(index))
            ended = torch.tensor([ends[row] == index for row in (0, 1)])  # for one patch
            yield replace(empty, index=index, streams={"audio": rows}, ended=ended)

    half.generate = generate
    made = half.draw(samples, text_tokenizer("characters"), [0, 1], PLAIN)
    assert [len(rows) for rows in made] == [3 * P, 5 * P]
    assert made[1][-1, 0] == 4.0


def test_given_sound_is_kept_and_followed(cascades, latents):
    samples = [latents[i] for i in range(4)]  # of four lengths
    made = cascades["audio"].speak(samples, range(4), PLAIN, sound_given=True)
    for sample, seed, rows in zip(samples, range(4), made):
        assert list(rows) == ["audio", "motion"]
        assert torch.equal(rows["audio"], sample.latents["audio"])
        assert rows["motion"].shape == sample.latents["motion"].shape
        (alone,) = cascades["audio"].speak([sample], [seed], PLAIN, sound_given=True)
        assert torch.allclose(alone["motion"], rows["motion"], atol=1e-4)
    with pytest.raises(ValueError, match="sound_given: this cascade makes the motion first"):
        cascades["motion"].speak(samples, range(4), PLAIN, sound_given=True)


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """To the last bit."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def trained(latents, tmp_path_factory):
    out = tmp_path_factory.mktemp("cascade")
    return *train_cascade(TINY, latents, out, progress=False), out


def test_a_training_is_a_function_of_its_seed(trained, latents):
    cascade, records, _ = trained
    again, other_records = train_cascade(TINY, latents, progress=False)
    assert same_weights(cascade, again) and records == other_records
    other, _ = train_cascade(change_cascade(TINY, {"seed": 1, "steps": 1}), latents, progress=False)
    assert not same_weights(cascade, other)
    names = {"step", "lr", "loss", "audio", "motion", "stop", "phoneme", "phoneme_accuracy"}
    assert len(records) == 4 and names < set(records[0])
    assert all(np.isfinite(value) for record in records for value in record.values())


@pytest.mark.parametrize("lost", ["first", "second"])
def test_an_interrupted_training_goes_on(trained, latents, tmp_path, lost):
    """Killed in one of the halves, and started again: the same bytes."""
    cascade, records, out = trained
    shutil.copytree(out, tmp_path / "out")
    newest = sorted((tmp_path / "out" / lost).glob("checkpoint-*"))[-1]
    shutil.rmtree(newest)
    if lost == "first":
        shutil.rmtree(tmp_path / "out" / "second")
    again, other_records = train_cascade(TINY, latents, tmp_path / "out", progress=False)
    assert same_weights(cascade, again) and records == other_records


def test_half_of_the_steps(latents):
    recipe = change_cascade(TINY, {"full_steps": False, "steps": 3})
    _, records = train_cascade(recipe, latents, progress=False)
    assert [record["step"] for record in records] == [0, 1]


def test_settings_go_where_they_belong():
    changes = {"first": "motion", "hidden_size": 64, "phoneme_weight": 0.5, "seed": 3}
    changed = change_cascade(STUDY_CASCADE, changes | {"motion.loss_weight": 4.0, "frames": 900})
    assert changed == replace(
        STUDY_CASCADE,
        first="motion",
        frames=900,
        config=replace(STUDY_CASCADE.config, hidden_size=64).with_streams(
            motion={"loss_weight": 4.0}
        ),
        options=replace(STUDY_CASCADE.options, phoneme_weight=0.5),
        train=replace(STUDY_CASCADE.train, seed=3),
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"colour": 1}, "recipe: has no setting 'colour'"),
        ({"lead_share": 0.5}, "recipe: has no setting 'lead_share'"),
        ({"motion.colour": 1}, "motion.colour"),
        ({"face.loss_weight": 1.0}, "face.loss_weight"),
        ({"first": "face"}, "recipe.first: takes audio or motion; got 'face'"),
        ({"first": 1}, "recipe: first takes a word"),
        ({"full_steps": 1}, "recipe: full_steps takes true or false"),
        ({"steps": 1.5}, "recipe: steps takes a whole number"),
        ({"frames": 0}, "recipe.frames: takes 1 or more"),
        ({"lead_patches": 0}, "recipe.lead_patches: takes 1 or more"),
        ({"lead_patches": -1}, "lead_patches"),
    ],
)
def test_recipes_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        change_cascade(STUDY_CASCADE, changes)


def test_what_cannot_be_trained_or_spoken(cascades, latents):
    with pytest.raises(ValueError, match="clips with a face, got 8 without one"):
        train_cascade(TINY, make_latents(faces=False), progress=False)
    with pytest.raises(ValueError, match="text: takes"):
        train_cascade(change_cascade(TINY, {"text": "words"}), latents, progress=False)
    with pytest.raises(ValueError, match="seed"):
        cascades["audio"].speak([latents[0]], [-1], PLAIN)
    with pytest.raises(ValueError, match="requests"):
        cascades["audio"].speak([], [], PLAIN)


def test_hearing_further_ahead_costs_only_attention(cascades, latents):
    """The second half reads as many patches a second; each looks back on a few more."""
    cascade = cascades["audio"]
    found = cascade_operations(cascade, latents[0])
    assert set(found) == {"first", "second"} and min(found.values()) > 0
    further = Cascade(cascade.config, cascade.tokenizer, "audio")
    further.second = SecondHalf(replace(cascade.config, lead_patches=5), "motion").eval()
    ratio = cascade_operations(further, latents[0])["second"] / found["second"]
    assert 1 <= ratio < 1.02
