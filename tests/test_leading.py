"""A given stream that runs ahead: the row, the targets, and generation that equals training."""

from dataclasses import replace

import pytest
import torch

from talker_t2av.model.config import PRESETS
from talker_t2av.model.sequence import (
    TalkerSample,
    check_batch,
    make_batch,
    shift_streams,
    target_patches,
)
from talker_t2av.model.talker import Sampling, Talker
from talker_t2av.model.text import load_tokenizer

P, LEAD, PATCHES = 4, 2, 5


@pytest.fixture(scope="module")
def talker():
    torch.manual_seed(0)
    talker = Talker(replace(PRESETS["tiny"], lead_patches=LEAD)).eval()
    torch.nn.init.normal_(talker.patches.task_embedding.weight)  # so that a wrong tag shows
    return talker


@pytest.fixture(scope="module")
def clip():
    g = torch.Generator().manual_seed(1)
    random = lambda *shape: torch.randn(*shape, generator=g)
    return TalkerSample("hello there", random(PATCHES * P, 32), random(PATCHES * P, 40), random(64))


@pytest.mark.parametrize("lead", [1, LEAD, -1, -LEAD])
def test_only_the_late_stream_is_a_target_and_only_its_own_patches(talker, clip, lead):
    batch = make_batch([replace(clip, lead=lead), clip], load_tokenizer("tiny"), talker.config)
    check_batch(batch, talker.config)
    with torch.no_grad():
        targets = talker.targets(
            batch, talker.backbone(inputs_embeds=talker.embed(batch), lengths=batch.num_tokens + 1)
        )
    late, given = ("motion", "audio") if lead > 0 else ("audio", "motion")
    assert len(targets[given].data) == PATCHES and len(targets[late].data) == 2 * PATCHES
    own = getattr(clip, late).view(PATCHES, P, -1)
    torch.testing.assert_close(targets[late].data, torch.cat([own, own]), rtol=0, atol=0)
    torch.testing.assert_close(
        targets[late].conditions["history"][1:PATCHES], own[:-1], rtol=0, atol=0
    )
    assert not targets[late].conditions["history"][0].any()
    condition = clip.motion[0] if late == "motion" else clip.speaker
    torch.testing.assert_close(
        targets[late].conditions["global_condition"],
        condition.expand(2 * PATCHES, -1),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("lead", [LEAD, -LEAD])
def test_the_late_stream_has_seen_the_given_one_ahead_and_no_further(talker, clip, lead):
    late, given = ("motion", "audio") if lead > 0 else ("audio", "motion")
    moving = getattr(clip, given).clone().requires_grad_()
    batch = make_batch(
        [replace(clip, lead=lead, **{given: moving})], load_tokenizer("tiny"), talker.config
    )
    hidden = talker.backbone(inputs_embeds=talker.embed(batch), lengths=batch.num_tokens + 1)
    states = talker.targets(batch, hidden)[late].conditions["hidden"]
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
def test_the_backbone_does_not_see_the_stream_that_follows(talker, clip, lead):
    late = "motion" if lead > 0 else "audio"
    rows = [
        make_batch(
            [replace(clip, lead=lead, **{late: getattr(clip, late) + shift})],
            load_tokenizer("tiny"),
            talker.config,
        )
        for shift in (0.0, 1.0)
    ]
    with torch.no_grad():
        a, b = (
            talker.backbone(inputs_embeds=talker.embed(row), lengths=row.num_tokens + 1)
            for row in rows
        )
        history = [talker.targets(row, a)[late].conditions["history"] for row in rows]
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(*history)  # but the head does


@pytest.mark.parametrize("lead", [LEAD, -LEAD])
def test_generation_walks_the_same_row_as_training(talker, clip, lead):
    given = {"audio": clip.audio[None]} if lead > 0 else {"motion": clip.motion[None]}
    tokenizer = load_tokenizer("tiny")
    prefix = torch.tensor([tokenizer.prompt(clip.text).prefix])
    patches = list(
        talker.generate(
            prefix,
            clip.speaker[None],
            clip.motion[:1],
            max_patches=PATCHES,
            lead=lead,
            generator=torch.Generator().manual_seed(3),
            sampling=Sampling(num_steps=3),
            **given,
        )
    )
    assert [patch.index for patch in patches] == list(range(PATCHES))
    audio, motion = (
        torch.cat([getattr(patch, name)[0] for patch in patches]) for name in ("audio", "motion")
    )
    torch.testing.assert_close(
        audio if lead > 0 else motion, clip.audio if lead > 0 else clip.motion, rtol=0, atol=0
    )
    batch = make_batch(
        [TalkerSample(clip.text, audio, motion, clip.speaker, lead)], tokenizer, talker.config
    )
    with torch.no_grad():
        logits = talker.stop(
            talker.backbone(inputs_embeds=talker.embed(batch), lengths=batch.num_tokens + 1)
        )[0]
    first = int(batch.first_slot[0]) + 1
    # read after slot i + LEAD, in which both streams' patch i is complete
    expected = logits[first + LEAD : first + LEAD + PATCHES]
    torch.testing.assert_close(
        torch.cat([patch.stop_logit for patch in patches]), expected, rtol=1e-4, atol=1e-4
    )


def test_what_does_not_lead_is_untouched(clip):
    assert shift_streams(clip, P) == (clip.audio, clip.motion)
    begin, end = target_patches(torch.tensor([20, 4]), torch.tensor([20, 4]), P)["audio"]
    assert begin.tolist() == [0, 0] and end.tolist() == [5, 0]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"lead": 3}, "samples\\[0\\].lead"),
        ({"lead": 1, "motion": None}, "samples\\[0\\].lead"),
    ],
)
def test_a_lead_that_cannot_be_is_refused(talker, clip, change, message):
    with pytest.raises(ValueError, match=message):
        make_batch([replace(clip, **change)], load_tokenizer("tiny"), talker.config)


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
    prefix = torch.tensor([load_tokenizer("tiny").prompt(clip.text).prefix])
    streams = {name: getattr(clip, name)[None] for name in given}
    with pytest.raises(ValueError, match="lead: takes"):
        talker.generate(
            prefix,
            clip.speaker[None],
            clip.motion[:1],
            max_patches=PATCHES,
            lead=lead,
            generator=torch.Generator(),
            **streams,
        )


def test_a_talker_without_the_tags_refuses(clip):
    with pytest.raises(ValueError, match="lead_patches=0"):
        make_batch([replace(clip, lead=1)], load_tokenizer("tiny"), PRESETS["tiny"])
