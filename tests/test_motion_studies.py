"""Variants of the motion codec: a code that learns on a frozen reader, and
what is measured of it.
"""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from talker_t2av.codecs.motion.codec import FaceReader, to_images
from talker_t2av.codecs.motion.reader import CODE_STD, frame_bank
from talker_t2av.codecs.motion.training import MOTION_RECIPES, Stage
from talker_t2av.studies.motion_codes import (
    VARIANTS,
    LearnedCode,
    Study,
    UnitDictionary,
    Variant,
    apply_view,
    bank_and_view,
    fit_view,
    read_features,
    run_variant,
    study_material,
    train_variant,
)

ROOT = Path(__file__).resolve().parents[1]
TINY = Study(
    recipe=MOTION_RECIPES["tiny"],
    stages=(Stage(1, 3, 2),),
    people=40,
    clips=2,
    unseen_clips=1,
    known_clips=2,
)


@pytest.fixture(scope="module")
def reader():
    torch.manual_seed(0)
    reader = FaceReader(20, TINY.recipe.config.reader).eval()
    bank = frame_bank(4, 4, 64, clips=2)
    reader.train()
    reader(to_images(bank.frames.flatten(0, 1)))  # batch statistics
    return reader.eval()


@pytest.fixture(scope="module")
def material(reader, tmp_path_factory):
    return study_material(TINY, reader, tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def seen(reader, material):
    images = to_images(material["frames"].flatten(0, 1))
    return images, *read_features(reader, images)


def test_features_are_what_the_readers_numbers_are_made_of(reader, seen):
    images, numbers, centre, features = seen
    torch.testing.assert_close(numbers, reader.find_and_read(images)[0].detach())
    ones = torch.ones(len(numbers), 1)
    both = torch.cat([features, ones], 1).double()
    guess = both @ torch.linalg.lstsq(both, numbers.double(), driver="gelsd").solution
    # the numbers are a linear map of what is seen
    assert (guess - numbers).abs().max() < 1e-3 * numbers.abs().max()


def test_a_view_holds_the_readers_numbers_and_nothing_of_them_in_the_rest(seen):
    _, numbers, _, features = seen
    numbers = (numbers - numbers.mean(0)) / numbers.std(0)
    view = fit_view(numbers, features, 26)
    few = apply_view(numbers, features, view)
    assert few.shape == (len(numbers), 26) and torch.equal(few[:, :20], numbers)
    torch.testing.assert_close(few[:, 20:].std(0), torch.ones(6), atol=0.01, rtol=0)
    correlation = torch.corrcoef(few.T)
    assert (
        correlation[20:, :20].abs().max() < 0.05
        and (correlation[20:, 20:] - torch.eye(6)).abs().max() < 0.05
    )


@pytest.mark.parametrize("size", [8, 24])
def test_a_learned_code_starts_from_the_principal_directions(reader, seen, size):
    images, numbers, centre, features = seen
    turn = torch.linalg.svd(numbers, full_matrices=False).Vh
    learned = LearnedCode(
        reader,
        fit_view(numbers / CODE_STD, features, 40),
        turn,
        size,
        torch.Generator().manual_seed(0),
    ).eval()
    code, at = learned.find_and_read(images)
    assert code.shape == (len(images), size)
    torch.testing.assert_close(
        code[:, : min(size, 20)].detach(), numbers @ turn[:size].T, atol=1e-3, rtol=1e-3
    )
    torch.testing.assert_close(at, centre)
    assert [name for name, value in learned.named_parameters() if value.requires_grad] == [
        "to_code.weight",
        "to_code.bias",
    ]


def test_only_the_layer_that_makes_the_code_learns_and_the_reader_stays_as_it_was(
    reader, material, tmp_path
):
    before = {name: value.clone() for name, value in reader.state_dict().items()}
    bank, view = bank_and_view(material)
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
        codec.network.reader.to_code.weight, start.to_code.weight
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
        again.network.reader.to_code.weight, codec.network.reader.to_code.weight, rtol=0, atol=0
    )


@pytest.mark.parametrize("name", ["40 numbers, sparse", "free dictionary", "all, and features"])
def test_variants_are_trained_and_measured(reader, material, name):
    measured = run_variant(TINY, name, material, reader, progress=False)
    assert len(measured["std"]) == VARIANTS[name].code_size and 5 < measured["psnr"] < 40
    assert (
        set(measured["moves"]) == set(measured["probe"])
        and 0 <= measured["at_floor"] < VARIANTS[name].code_size
    )
    json.dumps(measured, allow_nan=False)


@pytest.mark.parametrize("size", [8, 40])
def test_a_free_dictionary_has_directions_of_length_one(size):
    directions = UnitDictionary(128, size).directions()
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(size))


def test_an_unknown_variant_is_refused(reader, monkeypatch, capsys):
    with pytest.raises(ValueError, match="variant: takes one of"):
        run_variant(TINY, "41 numbers", {}, reader)
    script = str(ROOT / "benchmarks" / "motion_studies.py")
    monkeypatch.setattr(sys, "argv", [script, "--out", "x", "--only", "41 numbers"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(script, run_name="__main__")
    assert stopped.value.code == 2 and "41 numbers" in capsys.readouterr().err


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
