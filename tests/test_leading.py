"""A given stream that runs ahead: the row, the targets, and generation that equals training."""

from dataclasses import replace

import pytest
import torch

from talker_t2av.model.config import PRESETS
from talker_t2av.model.flow import Sampling
from talker_t2av.model.leading import generate_leading, make_leading_batch, shift_sample
from talker_t2av.model.sequence import check_batch, make_batch, predicting_states, talking_sample
from talker_t2av.model.talker import Talker, head_targets
from talker_t2av.model.text import load_tokenizer

P, LEAD, PATCHES = 4, 2, 5
CONFIG = replace(PRESETS["tiny"], lead_patches=LEAD)
TOKENIZER = load_tokenizer("tiny")


@pytest.fixture(scope="module")
def talker():
    torch.manual_seed(0)
    talker = Talker(CONFIG).eval()
    torch.nn.init.normal_(talker.task_embedding.weight)  # so that a wrong tag shows
    return talker


def make_clip(audio_shift=0.0, motion_shift=0.0):
    g = torch.Generator().manual_seed(1)
    random = lambda *shape: torch.randn(*shape, generator=g)
    clip = talking_sample(
        "hello there", random(PATCHES * P, 32), random(PATCHES * P, 40), random(64)
    )
    latents = {
        "audio": clip.latents["audio"] + audio_shift,
        "motion": clip.latents["motion"] + motion_shift,
    }
    return replace(clip, latents=latents)


@pytest.fixture(scope="module")
def clip():
    return make_clip()


def states_and_targets(talker, batch):
    """The states (B, L, D) from which patches are predicted, and the targets of both streams."""
    hidden = talker.backbone(inputs_embeds=talker.embed(batch), lengths=batch.num_tokens + 1)
    return predicting_states(
        hidden, batch.first_patch + 1, int(batch.num_patches.max())
    ), head_targets(batch)


@pytest.mark.parametrize("lead", [1, LEAD, -1, -LEAD])
def test_only_the_late_stream_is_a_target_and_only_its_own_patches(talker, clip, lead):
    batch = make_leading_batch([clip, clip], [lead, 0], TOKENIZER, talker.config)
    check_batch(batch, talker.config)
    states, targets = states_and_targets(talker, batch)
    late, given = ("motion", "audio") if lead > 0 else ("audio", "motion")
    data, conditions = targets[late].rows(states)
    assert targets[given].is_target.sum() == PATCHES and len(data) == 2 * PATCHES
    own = clip.latents[late].view(PATCHES, P, -1)
    torch.testing.assert_close(data, torch.cat([own, own]), rtol=0, atol=0)
    torch.testing.assert_close(conditions["previous_patch"][1:PATCHES], own[:-1], rtol=0, atol=0)
    assert not conditions["previous_patch"][0].any()
    torch.testing.assert_close(
        conditions["global_condition"],
        clip.conditions[late].expand(2 * PATCHES, -1),
        rtol=0,
        atol=0,
    )
    assert batch.task.tolist() == [2 if lead > 0 else 3, 1]


@pytest.mark.parametrize("lead", [LEAD, -LEAD])
def test_the_late_stream_has_seen_the_given_one_ahead_and_no_further(talker, clip, lead):
    late, given = ("motion", "audio") if lead > 0 else ("audio", "motion")
    moving = clip.latents[given].clone().requires_grad_()
    sample = replace(clip, latents=clip.latents | {given: moving})
    states, targets = states_and_targets(
        talker, make_leading_batch([sample], [lead], TOKENIZER, talker.config)
    )
    states = targets[late].rows(states)[1]["hidden"]
    for i in range(PATCHES):
        seen = (
            torch.autograd.grad(states[i].sum(), moving, retain_graph=True)[0]
            .view(PATCHES, -1)
            .abs()
            .sum(1)
            > 0
        )
        assert seen.tolist() == [j < i + LEAD for j in range(PATCHES)]


@pytest.mark.parametrize("lead", [LEAD, -LEAD])
def test_the_backbone_does_not_see_the_stream_that_follows(talker, lead):
    late = "motion" if lead > 0 else "audio"
    batches = [
        make_leading_batch(
            [make_clip(**{f"{late}_shift": shift})], [lead], TOKENIZER, talker.config
        )
        for shift in (0.0, 1.0)
    ]
    with torch.no_grad():
        a, b = (states_and_targets(talker, batch) for batch in batches)
    torch.testing.assert_close(a[0], b[0], rtol=0, atol=0)
    assert not torch.equal(
        a[1][late].previous_patch, b[1][late].previous_patch
    )  # but the head does


@pytest.mark.parametrize("lead", [LEAD, -LEAD])
def test_generation_walks_the_sequence_of_training(talker, clip, lead):
    leader, late = ("audio", "motion") if lead > 0 else ("motion", "audio")
    prefix = torch.tensor([TOKENIZER.prompt(clip.text).prefix])
    conditions = {name: condition[None] for name, condition in clip.conditions.items()}
    patches = list(
        generate_leading(
            talker,
            prefix,
            conditions,
            lead=lead,
            given={leader: clip.latents[leader][None]},
            max_patches=PATCHES,
            generator=torch.Generator().manual_seed(0),
            sampling=Sampling(num_steps=2),
        )
    )
    assert [patch.index for patch in patches] == list(range(PATCHES))
    made = {
        name: torch.cat([patch.streams[name][0] for patch in patches])
        for name in ("audio", "motion")
    }
    assert torch.equal(made[leader], clip.latents[leader])
    batch = make_leading_batch([replace(clip, latents=made)], [lead], TOKENIZER, talker.config)
    with torch.no_grad():
        logits = talker(batch, torch.Generator().manual_seed(0)).stop_logits[0]
    first = int(batch.first_patch[0]) + 1
    expected = logits[
        first + LEAD : first + LEAD + PATCHES
    ]  # read after patch i + LEAD of the sequence, when both streams' patch i is complete
    torch.testing.assert_close(
        torch.cat([patch.stop_logit for patch in patches]), expected, rtol=1e-4, atol=1e-4
    )


def test_what_does_not_lead_is_untouched(clip):
    assert shift_sample(clip, 0, P) is clip
    plain, leading = (
        make_batch([clip, clip], TOKENIZER, CONFIG),
        make_leading_batch([clip, clip], [0, 0], TOKENIZER, CONFIG),
    )
    assert torch.equal(plain.input_ids, leading.input_ids) and torch.equal(plain.task, leading.task)
    for name in plain.streams:
        for field, value in vars(plain.streams[name]).items():
            assert torch.equal(value, getattr(leading.streams[name], field)), (name, field)


@pytest.mark.parametrize("lead, speech_only", [(3, False), (-3, False), (1, True)])
def test_a_lead_that_cannot_be_is_refused(talker, clip, lead, speech_only):
    sample = (
        talking_sample(clip.text, clip.latents["audio"], None, clip.conditions["audio"])
        if speech_only
        else clip
    )
    with pytest.raises(ValueError, match="samples\\[0\\]: its lead"):
        make_leading_batch([sample], [lead], TOKENIZER, talker.config)


@pytest.mark.parametrize(
    "lead, given",
    [
        (LEAD, ()),
        (LEAD, ("motion",)),
        (-LEAD, ("audio",)),
        (LEAD, ("audio", "motion")),
        (3, ("audio",)),
    ],
)
def test_generation_refuses_a_lead_without_its_stream(talker, clip, lead, given):
    prefix = torch.tensor([TOKENIZER.prompt(clip.text).prefix])
    conditions = {name: condition[None] for name, condition in clip.conditions.items()}
    streams = {name: clip.latents[name][None] for name in given}
    with pytest.raises(ValueError, match="lead: takes"):
        generate_leading(
            talker,
            prefix,
            conditions,
            lead=lead,
            given=streams,
            max_patches=PATCHES,
            generator=torch.Generator(),
        )


def test_a_talker_without_the_tags_refuses(clip):
    with pytest.raises(ValueError, match="lead_patches=0"):
        make_leading_batch([clip], [1], TOKENIZER, PRESETS["tiny"])
