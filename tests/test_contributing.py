"""The worked examples of CONTRIBUTING: their code runs, trains a step and generates."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from talker_t2av.model.config import PRESETS
from talker_t2av.model.fast_heads import FastHeads
from talker_t2av.model.flow import Sampling
from talker_t2av.model.sequence import make_batch, talking_sample
from talker_t2av.model.talker import Talker
from talker_t2av.model.text import load_tokenizer, train_tokenizer

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
FAST = Sampling(num_steps=3)


@pytest.fixture(scope="module")
def examples():
    """What the code of the section defines."""
    names = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.S):
        exec(block, names)
    return names


def random_samples():
    """One clip with a face, one of speech only."""
    generator = torch.Generator().manual_seed(0)
    random = lambda *shape: torch.randn(*shape, generator=generator)
    both = talking_sample("Hello there.", random(40, 32), random(40, 40), random(64))
    return [both, talking_sample("Only a voice.", random(30, 32), None, random(64))]


def learn_and_speak(talker, samples, tokenizer, steps=12, **options):
    """Losses of the first and of the last step on one batch; the patches of a short clip."""
    batch, generator = make_batch(samples, tokenizer, talker.config), torch.Generator()
    optimizer, losses = torch.optim.AdamW(talker.parameters(), 2e-3), []
    for _ in range(steps):
        output = talker(batch, generator.manual_seed(1))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.numbers())
    ids = torch.tensor([tokenizer.prompt(samples[0].text).prefix])
    conditions = {name: condition[None] for name, condition in samples[0].conditions.items()}
    patches = talker.generate(
        ids, conditions, max_patches=3, generator=generator, sampling=FAST, **options
    )
    return losses[0], losses[-1], list(patches)


@pytest.mark.parametrize("given", [{}, {"audio": 12}])
def test_coupled_heads(examples, given):
    torch.manual_seed(0)
    config, samples = PRESETS["tiny"], random_samples()
    talker = Talker(config, examples["CoupledHeads"](config.heads))
    frames = {name: samples[0].latents[name][None, :n] for name, n in given.items()}
    tokenizer = load_tokenizer("tiny")
    first, last, patches = learn_and_speak(talker, samples, tokenizer, given=frames)
    assert last["audio"] < first["audio"] and last["motion"] < first["motion"]
    assert len(patches) == 3 and patches[0].motion.shape == (1, 4, 40)
    with pytest.raises(ValueError, match="FusedHeads"):  # fast heads notice that these are others
        learn_and_speak(talker, samples, tokenizer, steps=1, heads=FastHeads(talker.heads))


def test_a_third_stream(examples):
    torch.manual_seed(0)
    talker, samples = Talker(examples["config"]), random_samples()
    hands = torch.randn(40, 12)
    samples[0] = replace(
        samples[0],
        latents=samples[0].latents | {"hands": hands},
        conditions=samples[0].conditions | {"hands": hands[0]},
    )
    fast = FastHeads(talker.heads)
    first, last, _ = learn_and_speak(talker, samples, load_tokenizer("tiny"))
    assert last["hands"] < first["hands"]
    _, _, patches = learn_and_speak(talker, samples, load_tokenizer("tiny"), steps=1, heads=fast)
    assert patches[0].streams["hands"].shape == (1, 4, 12)


def test_another_tokenizer(examples):
    tokenizer = examples["LowerCase"](train_tokenizer(["hello there, only a voice"], 280).merges)
    assert tokenizer.encode("Hello") == tokenizer.encode("hello")
    torch.manual_seed(0)
    talker = Talker(replace(PRESETS["tiny"], vocab_size=tokenizer.vocab_size))
    first, last, patches = learn_and_speak(talker, random_samples(), tokenizer)
    assert last["loss"] < first["loss"] and len(patches) == 3
