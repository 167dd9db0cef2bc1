"""Inside the talker (6.8): small functions against independent computations, on tiny talkers."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from talker_t2av.evaluation.inside import (
    accuracy_interval,
    attention_shares,
    draw_again,
    endpoint_guess,
    explained_interval,
    fit_probe,
    generated_sample,
    head_attention,
    held_out_guesses,
    letter_maps,
    pair_up,
    patch_states,
    patch_truth,
    probe_layers,
    share_on,
    state_change,
    swap_word,
)
from talker_t2av.inference.generate import Request, Settings, collect, generate
from talker_t2av.model.config import PRESETS
from talker_t2av.model.sequence import make_batch, predicting_states, talking_sample
from talker_t2av.model.talker import Talker
from talker_t2av.model.text import load_tokenizer
from talker_t2av.training.talker import diagonal
from talker_t2av.world.face.articulation import articulate

TEXTS = ("The red boat is late.", "We wait here.")
WORDS = [["The", 0.0, 0.2], ["red", 0.2, 0.4], ["boat", 0.4, 0.8], ["is", 0.8, 0.9]]
PHONEMES = [["_", 0.0, 0.2], ["b", 0.2, 0.4], ["a", 0.4, 0.7], ["_", 0.7, 0.96]]


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("small")


@pytest.fixture(scope="module")
def talker():
    torch.manual_seed(0)
    return Talker(PRESETS["tiny"]).eval()


@pytest.fixture(scope="module")
def samples():
    made = []
    for i, (text, frames, face) in enumerate(zip(TEXTS, (24, 16), (True, False))):
        motion = noise(frames, 40, seed=10 + i) if face else None
        made.append(talking_sample(text, noise(frames, 32, seed=i), motion, noise(64, seed=20 + i)))
    return made


@pytest.fixture(scope="module")
def batch(samples, tokenizer, talker):
    return make_batch(samples, tokenizer, talker.config)


RECORDS = [
    {"text": TEXTS[0], "words": WORDS, "n_frames": 24, "sample_id": "a", "phonemes": PHONEMES},
    {"text": TEXTS[1], "words": [["We", 0.1, 0.3]], "n_frames": 16, "sample_id": "b"},
]


def test_letter_maps_agree_with_the_diagonal(talker, batch, tokenizer):
    maps = letter_maps(talker, batch, RECORDS, tokenizer)
    found = diagonal(talker, batch, RECORDS, tokenizer)
    layer, head = found["best"]
    for mine, theirs in zip(maps, found["maps"]):
        assert torch.equal(mine[layer, head], theirs)
        assert 0 < mine.sum(-1).max() <= 1.0001
    with pytest.raises(ValueError, match="records: takes one for each of 2 clips, got 1"):
        letter_maps(talker, batch, RECORDS[:1], tokenizer)


def test_share_on_counts_only_what_is_spoken():
    maps = torch.tensor([[0.5, 0.25, 0.125], [0.25, 0.25, 0.25], [0.0, 0.0, 1.0]])
    near = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 0, 1]]).bool()
    assert share_on(maps, near) == (0.75 + 1.0) / 2
    stacked = maps.expand(2, 3, 3, 3)
    assert torch.equal(share_on(stacked, near), torch.full((2, 3), 0.875))
    with pytest.raises(ValueError, match="near: takes"):
        share_on(maps, near[:2])
    with pytest.raises(ValueError, match="near: takes"):
        share_on(maps, near & False)


@torch.no_grad()
def test_states_are_those_of_a_plain_loop(talker, batch):
    states = patch_states(talker, batch)
    tokens = talker.embed(batch)
    x, outputs = tokens, [tokens]
    table = talker.backbone.stack.rope(tokens.shape[1])
    for layer in talker.backbone.stack.layers:
        x = layer(x, table)
        outputs.append(x)
    outputs[-1] = talker.backbone.stack.norm(x)
    for b, mine in enumerate(states):
        count = int(batch.num_patches[b])
        for depth, output in enumerate(outputs):
            wanted = predicting_states(output, batch.first_patch + 1, count)[b]
            torch.testing.assert_close(mine[depth], wanted, atol=1e-5, rtol=1e-5)
    assert [s.shape for s in states] == [(3, 6, 64), (3, 4, 64)]


def test_hooks_are_taken_off(talker, batch, samples):
    patch_states(talker, batch)
    layers = talker.backbone.stack.layers
    assert not any(layer._forward_hooks for layer in layers)
    with pytest.raises(TypeError):
        patch_states(talker, samples)


def test_nothing_swapped_changes_nothing(talker, samples, tokenizer):
    batch = make_batch(samples[:1], tokenizer, talker.config)
    (first,), (second,) = patch_states(talker, batch), patch_states(talker, batch)
    assert torch.equal(first, second)
    assert not state_change(first, second).any()


def test_a_swapped_word_leaves_the_input_as_it_is(talker, samples, tokenizer):
    text = swap_word(RECORDS[0], 2, ["book", "boat", "extraordinarily"], tokenizer)
    before = patch_states(talker, make_batch(samples[:1], tokenizer, talker.config))[0]
    other = [replace(samples[0], text=text)]
    after = patch_states(talker, make_batch(other, tokenizer, talker.config))[0]
    change = state_change(before, after)
    # the state before patch 0 stands on the last token of the text; all inputs are the same
    assert not change[0].any() and change[1:].min() > 0


def test_state_change_is_one_for_unrelated_patches():
    a, b = noise(2, 4000, 16, seed=1), noise(2, 4000, 16, seed=2)
    assert state_change(a, b).mean(1).tolist() == pytest.approx([1, 1], abs=0.02)
    rows = a[0, :50]
    apart = (rows[:, None] - rows).square().sum(-1)
    usual = apart.sum() / (50 * 49)  # of all pairs of different patches
    mine = state_change(a[:1, :50], b[:1, :50])[0]
    torch.testing.assert_close(mine, (rows - b[0, :50]).square().sum(-1) / usual)
    for other in (b[:, :5], b[:, :1]):
        with pytest.raises(ValueError, match="state_change: takes two alike"):
            state_change(a[:, : 1 if other.shape[1] == 1 else 6], other)


def test_swap_word_keeps_the_number_of_tokens(tokenizer):
    words = ["a", "boat", "book", "extraordinarily", "tea"]
    new = swap_word(RECORDS[0], 2, words, tokenizer)
    assert new is not None and new != TEXTS[0]
    assert len(tokenizer.encode(new)) == len(tokenizer.encode(TEXTS[0]))
    assert new.startswith("The red ") and new.endswith(" is late.")
    assert swap_word(RECORDS[0], 2, ["boat"], tokenizer) is None
    twice = {"text": "so so.", "words": [["so", 0, 1], ["so", 1, 2]]}
    assert swap_word(twice, 1, ["no"], tokenizer) in (None, "so no.")
    with pytest.raises(ValueError, match="number: takes 0 to 3, got 4"):
        swap_word(RECORDS[0], 4, words, tokenizer)
    with pytest.raises(ValueError, match="does not hold its word"):
        swap_word({"text": "Tea.", "words": [["milk", 0, 1]]}, 0, words, tokenizer)


def test_truth_of_patches():
    table = {"_": 0, "a": 1, "b": 2}
    phoneme, jaw = patch_truth(RECORDS[0], table)
    assert phoneme.argmax(1).tolist() == [0, 2, 1, 1, 0, 0]  # at 0.1, 0.26, 0.42, 0.58 s, ...
    assert phoneme.sum(1).eq(1).all()
    track = articulate(PHONEMES, 24)[:, 0]
    assert jaw[:, 0].tolist() == pytest.approx([float(part.mean()) for part in track.split(4)])
    with pytest.raises(ValueError, match="is no multiple of 4"):
        patch_truth(RECORDS[0] | {"n_frames": 23}, table)


def test_probe_is_least_squares_with_rows_for_the_penalty():
    x, y, penalty = noise(60, 5) * torch.tensor([1.0, 3, 0.2, 1, 1]) + 2, noise(60, 3, seed=1), 0.3
    weight, bias = fit_probe(x, y, penalty)
    # ridge as plain least squares: one more row for each weight
    scale = x.std(0, correction=0)
    inputs = torch.cat([(x - x.mean(0)) / scale, (60 * penalty) ** 0.5 * torch.eye(5)])
    wanted = torch.linalg.lstsq(inputs, torch.cat([y - y.mean(0), torch.zeros(5, 3)])).solution
    torch.testing.assert_close(weight, wanted / scale[:, None], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close((x @ weight + bias).mean(0), y.mean(0), atol=1e-4, rtol=1e-4)
    constant = torch.cat([x, torch.ones(60, 1)], dim=1)
    assert torch.isfinite(fit_probe(constant, y)[0]).all()
    with pytest.raises(ValueError, match="as many rows"):
        fit_probe(x, y[:59])
    with pytest.raises(ValueError, match="penalty of 0 or more"):
        fit_probe(x, y, -1)


def test_held_out_clips_are_held_out():
    x = [noise(7, 4, seed=i) for i in range(6)]
    y = [rows @ torch.ones(4, 1) for rows in x]
    guesses = held_out_guesses(x, y, folds=3, penalty=0.1)
    kept = [i for i in range(6) if i % 3 != 1]
    weight, bias = fit_probe(torch.cat([x[i] for i in kept]), torch.cat([y[i] for i in kept]), 0.1)
    assert torch.equal(guesses[4], x[4] @ weight + bias)
    y[4] = y[4] + 100  # its own truth must not matter to it
    assert torch.equal(held_out_guesses(x, y, folds=3, penalty=0.1)[4], guesses[4])
    for folds in (1, 7):
        with pytest.raises(ValueError, match="held_out_guesses"):
            held_out_guesses(x, y, folds=folds)


def test_measures():
    truth = [F.one_hot(torch.tensor([0, 1]), 3).float(), F.one_hot(torch.tensor([2]), 3).float()]
    guesses = [torch.tensor([[0.9, 0.1, 0], [0.5, 0.4, 0]]), torch.tensor([[0, 0, 0.1]])]
    assert accuracy_interval(guesses, truth).value == pytest.approx(2 / 3)
    assert accuracy_interval(truth, truth)[:3] == (1, 1, 1)
    values = [noise(9, 1, seed=i) for i in range(5)]
    whole = torch.cat(values)
    spoilt = [v + 0.5 for v in values]
    found = explained_interval(spoilt, values)
    assert found.value == pytest.approx(1 - 0.25 / float(whole.var(correction=0)), abs=1e-5)
    assert found.low < found.value < found.high and found.clips == 5
    mean = [torch.full_like(v, float(whole.mean())) for v in values]
    assert explained_interval(mean, values).value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("ahead", range(-3, 4))
def test_pairs(ahead):
    steps = torch.arange(5.0)[:, None]
    x, y = pair_up(steps, steps, ahead)
    assert len(x) == 5 - abs(ahead) and (y - x == ahead).all()


def test_pairs_that_do_not_exist():
    steps = torch.arange(5.0)[:, None]
    for truth, ahead in ((steps, 5), (steps, -5), (steps[:4], 0)):
        with pytest.raises(ValueError, match="pair_up: takes"):
            pair_up(steps, truth, ahead)


def test_layers_are_probed_one_by_one():
    truth = [noise(12, 1, seed=i) for i in range(10)]
    states = [torch.stack([noise(12, 3, seed=50 + i), t.repeat(1, 3)]) for i, t in enumerate(truth)]
    nothing, everything = probe_layers(states, truth, explained_interval)
    assert nothing.high < 0.2 and everything.value > 0.99
    later = probe_layers(states, truth, explained_interval, ahead=1)[1]
    assert later.high < 0.2


def test_head_attention_gives_what_the_head_computes(talker):
    head, B = talker.heads["audio"], 3
    given = {
        "noisy": noise(B, 4, 32),
        "timestep": torch.tensor([0.2, 0.5, 0.9]),
        "hidden": noise(B, 64, seed=1),
        "previous_patch": noise(B, 4, 32, seed=2),
        "global_condition": noise(B, 64, seed=3),
    }
    maps = head_attention(head, **given)
    assert maps.shape == (2, B, 4, 10, 10)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, B, 4, 10))
    # the first layer's output, from these weights and the values
    with torch.no_grad():
        block = head.stack.layers[0]
        x = block.input_norm(head.embed(**given))
        values = block.attention.project(x)[2]
        mixed = block.attention.o_proj(rearrange(maps[0] @ values, "b h s c -> b s (h c)"))
        torch.testing.assert_close(mixed, block.attention(x, head.stack.rope(10)))
    assert not any(layer.attention._forward_pre_hooks for layer in head.stack.layers)


def test_shares_of_attention_sum_to_one():
    even = attention_shares(torch.full((2, 10, 10), 0.1))
    parts = [float(value[0]) for value in even.values()]
    assert parts == pytest.approx([0.1, 0.1, 0.4, 0.3, 0.1])
    maps = noise(2, 3, 10, 10).softmax(-1)
    shares = attention_shares(maps)
    torch.testing.assert_close(sum(shares.values()), torch.ones(2, 3))
    own = sum(maps[..., i, i] for i in range(6, 10)) / 4
    torch.testing.assert_close(shares["the frame itself"], own)


@pytest.mark.parametrize("face", [True, False])
def test_a_generated_clip_is_drawn_again(talker, tokenizer, face):
    first = noise(40, seed=5) if face else None
    request = Request("A boat.", noise(64, seed=4), first, seed=3)
    settings = Settings(num_steps=4, min_patches=3, stop_threshold=1e-6)
    latents = collect(generate(talker, tokenizer, [request], settings))[0]
    again = draw_again(talker, tokenizer, generated_sample(request, latents), 3, settings)
    made = {"audio": latents.audio} | ({"motion": latents.motion} if face else {})
    assert again.states.keys() == made.keys()
    for name, frames in made.items():
        drawn = rearrange(again.states[name][-1], "l p d -> (l p) d")
        torch.testing.assert_close(drawn, frames, atol=1e-4, rtol=1e-4)
        guess = endpoint_guess(again.states[name], again.times)
        torch.testing.assert_close(guess[-1], again.states[name][-1], atol=1e-5, rtol=1e-4)
    # the head is asked with these conditions: its velocity at the last step leads to the patch
    conditions = again.conditions("audio")
    assert [len(value) for value in conditions.values()] == [len(latents.stop)] * 3
    assert again.times[-1] == 0 and len(again.times) == len(settings.sampling.times())


def test_drawing_again_refuses(talker, tokenizer, samples):
    short = replace(samples[1], latents={"audio": samples[1].latents["audio"][:15]})
    with pytest.raises(ValueError, match="a multiple of 4, got {'audio': 15}"):
        draw_again(talker, tokenizer, short)
    uneven = samples[0].latents | {"motion": samples[0].latents["motion"][:20]}
    with pytest.raises(ValueError, match="of one length"):
        draw_again(talker, tokenizer, replace(samples[0], latents=uneven))


def test_another_seed_draws_other_patches(talker, tokenizer, samples):
    one, same, other = (draw_again(talker, tokenizer, samples[0], seed) for seed in (1, 1, 2))
    for name in one.states:
        assert torch.equal(one.states[name], same.states[name])
        assert not torch.equal(one.states[name][-1], other.states[name][-1])


def test_guess_on_a_straight_line_is_the_end():
    data, start = noise(3, 4, 2), noise(3, 4, 2, seed=1)
    times = torch.tensor([1.0, 0.7, 0.2, 0.0])
    line = torch.stack([(1 - t) * data + t * start for t in times])
    guesses = endpoint_guess(line, times)
    torch.testing.assert_close(guesses, data.expand(3, 3, 4, 2), atol=1e-5, rtol=1e-4)
    for wrong in (times[:3], times.flip(0)):
        with pytest.raises(ValueError, match="times: takes 4 decreasing ones"):
            endpoint_guess(line, wrong)
