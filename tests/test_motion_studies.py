"""Variants of the motion codec: a code that learns on a frozen reader, and
what is measured of it.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from talker_t2av.codecs.motion.layers import FaceReader
from talker_t2av.codecs.motion.reader import LOUD, frame_bank, to_pictures
from talker_t2av.codecs.motion.training import MOTION_RECIPES
from talker_t2av.studies.motion_codes import (
    VARIANTS,
    LearnedCode,
    Study,
    Variant,
    fit_view,
    look_everywhere,
    run_variant,
    study_material,
    train_variant,
    viewed,
)

ROOT = Path(__file__).resolve().parents[1]
TINY = Study(
    recipe=MOTION_RECIPES["tiny"], stages=((1, 3, 2),), people=40, clips=2, strangers=2, known=2
)


@pytest.fixture(scope="module")
def reader():
    torch.manual_seed(0)
    reader = FaceReader(20, TINY.recipe.config.reader).eval()
    bank = frame_bank(4, 4, 64, clips=2)
    reader.train(), reader(to_pictures(bank.frames.flatten(0, 1)))  # batch statistics
    return reader.eval()


@pytest.fixture(scope="module")
def seen(reader):
    pictures = to_pictures(frame_bank(40, 4, 64, clips=2).frames.flatten(0, 1))
    return pictures, *look_everywhere(reader, pictures)


def test_looking_everywhere_says_what_the_reader_says_and_sees_what_it_is_made_of(reader, seen):
    pictures, said, centre, all_seen = seen
    torch.testing.assert_close(said, reader.find_and_read(pictures)[0].detach())
    ones = torch.ones(len(said), 1)
    both = torch.cat([all_seen, ones], 1).double()
    explained = both @ torch.linalg.lstsq(both, said.double(), driver="gelsd").solution
    # the numbers are a linear map of what is seen
    assert (explained - said).abs().max() < 1e-3 * said.abs().max()


def test_a_view_holds_the_said_numbers_and_nothing_of_them_in_the_rest(seen):
    _, said, _, all_seen = seen
    said = (said - said.mean(0)) / said.std(0)
    view = fit_view(said, all_seen, 26)
    few = viewed(said, all_seen, view)
    assert few.shape == (len(said), 26) and torch.equal(few[:, :20], said)
    torch.testing.assert_close(few[:, 20:].std(0), torch.ones(6), atol=0.01, rtol=0)
    correlation = torch.corrcoef(few.T)
    assert (
        correlation[20:, :20].abs().max() < 0.05
        and (correlation[20:, 20:] - torch.eye(6)).abs().max() < 0.05
    )


@pytest.mark.parametrize("size", [8, 24])
def test_a_learned_code_starts_from_the_principal_directions(reader, seen, size):
    pictures, said, centre, all_seen = seen
    turn = torch.linalg.svd(said, full_matrices=False).Vh
    learned = LearnedCode(
        reader, fit_view(said / LOUD, all_seen, 40), turn, size, torch.Generator().manual_seed(0)
    ).eval()
    code, at = learned.find_and_read(pictures)
    assert code.shape == (len(pictures), size)
    torch.testing.assert_close(
        code[:, : min(size, 20)].detach(), said @ turn[:size].T, atol=1e-3, rtol=1e-3
    )
    torch.testing.assert_close(at, centre)
    assert [name for name, value in learned.named_parameters() if value.requires_grad] == [
        "say.weight",
        "say.bias",
    ]


def test_only_the_layer_that_says_the_code_learns_and_the_reader_stays_as_it_was(reader, tmp_path):
    material = study_material(TINY, reader, tmp_path)
    before = {name: value.clone() for name, value in reader.state_dict().items()}
    from talker_t2av.codecs.motion.reader import Person
    from talker_t2av.studies.motion_codes import View

    bank, view = (
        Person(*(material[key] for key in Person._fields)),
        View(*(material[f"view.{key}"] for key in View._fields)),
    )
    start = LearnedCode(reader, view, material["turn"], 24, torch.Generator().manual_seed(0))
    codec = train_variant(
        TINY,
        Variant(24, learned=True),
        bank,
        reader,
        view,
        material["turn"],
        tmp_path / "learned",
        progress=False,
    )
    for name, value in codec.network.reader.reader.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert codec.config.code_size == 24 and not torch.equal(
        codec.network.reader.say.weight, start.say.weight
    )
    again = train_variant(
        TINY,
        Variant(24, learned=True),
        bank,
        reader,
        view,
        material["turn"],
        tmp_path / "learned",
        progress=False,
    )  # finished already: taken up, not trained twice
    torch.testing.assert_close(
        again.network.reader.say.weight, codec.network.reader.say.weight, rtol=0, atol=0
    )


@pytest.mark.parametrize("name", ["40 numbers, sparse", "free dictionary", "all, and features"])
def test_variants_are_trained_and_measured(reader, tmp_path, name):
    measured = run_variant(TINY, name, study_material(TINY, reader, None), reader, progress=False)
    assert len(measured["deviation"]) == VARIANTS[name].code_size and 5 < measured["psnr"] < 40
    assert (
        set(measured["moves"]) == set(measured["probe"])
        and 0 <= measured["at_floor"] < VARIANTS[name].code_size
    )
    json.dumps(measured, allow_nan=False)


def test_an_unknown_variant_is_refused(reader):
    with pytest.raises(ValueError, match="variant: takes one of"):
        run_variant(TINY, "41 numbers", {}, reader)
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks" / "motion_studies.py",
            "--out",
            "x",
            "--only",
            "41 numbers",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "41 numbers" in done.stderr


def test_variants_differ_in_one_decision():
    shipped = VARIANTS["as shipped"]
    for name, variant in VARIANTS.items():
        changed = [
            field for field in vars(shipped) if getattr(variant, field) != getattr(shipped, field)
        ]
        # a learned code and its size; weights and the reader's term; sparse codes need free
        # directions of length one
        assert len(changed) <= (4 if "sparse" in name else 2), name
        assert variant == replace(shipped, **{field: getattr(variant, field) for field in changed})
