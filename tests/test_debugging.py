"""The clinic of notebook 4.5: every patient has the illness that it is said to have, the stored
results are those of the code and the sounds, and the healthy talker is better than each sick one.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import debugging  # noqa: E402
import first_page  # noqa: E402

HEALTHY, PATIENTS = debugging.HEALTHY, debugging.PATIENTS
RECORD = json.loads((ROOT / "data" / "results" / "debugging.json").read_text(encoding="utf-8"))
VALUES = RECORD["values"]
SOUNDS = ROOT / "data" / "debugging"
NOTEBOOK = ROOT / "nbs" / "4_training" / "05_debugging.ipynb"


@pytest.fixture(scope="module")
def pages() -> dict[str, dict]:
    """Name -> names of the page, untrained, all with the weights of the healthy one."""
    made = {name: debugging.built(name) for name in (HEALTHY, *debugging.SICK)}
    weights = made[HEALTHY]["talker"].state_dict()
    for page in made.values():
        page["talker"].load_state_dict(weights)
    return made


@pytest.fixture(scope="module")
def sentences(pages) -> dict[str, list]:
    return {name: debugging.batch_of(page, debugging.SAID[0]) for name, page in pages.items()}


@pytest.fixture(scope="module")
def batches(pages) -> dict[str, list]:
    """A batch of sentences of different lengths."""
    return {name: debugging.fixed_batch(page, 6) for name, page in pages.items()}


def others(name: str) -> list[str]:
    return [other for other in (HEALTHY, *PATIENTS) if other != name]


def test_a_line_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="got 0"):
        first_page.edited(["a = 1"], [("b = 2", "b = 3")])
    with pytest.raises(ValueError, match="got 2"):
        first_page.edited(["a = 1", "a = 1"], [("a = 1", "a = 2")])
    assert first_page.edited(["a = 1\n"], [("1", "2"), ("2", "3")]) == ["a = 3\n"]


def test_every_patient_has_one_line_of_its_own():
    wrong = [patient.edits for patient in debugging.SICK.values()]
    assert all(len(edits) == 1 for edits in wrong) and len(PATIENTS) == 7
    assert all(before != after for edits in wrong for before, after in edits)
    assert len({patient.name for patient in debugging.SICK.values()}) == len(wrong)


def test_answers_on_the_page_show_the_lines_that_were_wrong():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    for patient in PATIENTS.values():
        for right, wrong in patient.edits:
            for mark, lines in (("-", wrong), ("+", right)):
                assert f"{mark} {lines.strip().removesuffix('#').strip()}\n" in prose


def test_a_target_is_the_negative_direction():
    """A head that always says 0 has the same loss in both; one that says 1 has not."""
    found = {}
    for name in (HEALTHY, "A"):
        page = debugging.built(name)
        head = page["talker"].sound_head
        patch = torch.ones(4, head.size)
        for constant in (0.0, 1.0):
            head.forward = lambda x, time, condition, constant=constant: torch.full_like(
                x, constant
            )
            torch.manual_seed(0)
            found[name, constant] = head.loss(patch, torch.zeros(4, 96)).item()
    assert found[HEALTHY, 0.0] == pytest.approx(found["A", 0.0])
    assert found[HEALTHY, 1.0] == pytest.approx(1, abs=0.2)  # the noise's variance is left
    assert found["A", 1.0] == pytest.approx(5, abs=0.6)  # (1 + 1)^2 more


def test_b_only_runs_with_the_other_pairs(pages, sentences):
    assert pages[HEALTHY]["LAYOUT"] != pages["B"]["LAYOUT"]
    hidden = [pages[n]["talker"].hidden(*sentences[HEALTHY][:3]) for n in (HEALTHY, "B")]
    assert not torch.allclose(*hidden, atol=1e-3)


def test_c_has_large_jaws(pages, batches):
    size = {name: debugging.numbers_that_enter(pages[name], batches[name]) for name in pages}
    assert size["C"]["mouth"] > 20
    for name in others("C"):
        assert 0.5 < size[name]["mouth"] < 2 and 0.5 < size[name]["sound"] < 2


def test_d_has_the_opposite_labels(pages, sentences):
    """Of a predictor that always says 'over', the healthy code says that it is wrong often."""
    for name in (HEALTHY, "D"):
        stop = pages[name]["talker"].stop
        with torch.no_grad():
            stop.weight.zero_()
            stop.bias.fill_(5.0)
    loss = {n: debugging.losses(pages[n], sentences[n])["stop"] for n in (HEALTHY, "D")}
    places = sentences[HEALTHY][1].shape[1] + 1
    no, yes = (
        np.log1p(np.exp(5.0)),
        np.log1p(np.exp(-5.0)),
    )  # cost of saying 'over' wrongly, rightly
    assert loss[HEALTHY] == pytest.approx((no * (places - 1) + yes) / places, rel=1e-4)
    assert loss["D"] == pytest.approx((yes * (places - 1) + no) / places, rel=1e-4)


def test_e_mixes_the_other_way(pages):
    """A head whose direction is its condition: the answer is known for every scale."""
    for name, expected in ((HEALTHY, 1.5 * 3 - 0.5 * 1), ("E", 1.5 * 1 - 0.5 * 3)):
        head = debugging.built(name)["talker"].sound_head
        head.forward = lambda x, time, condition: condition[:, :1].expand_as(x)
        with_text, blank = torch.full((2, 96), 3.0), torch.full((2, 96), 1.0)
        end = head.sample(with_text, blank, 1.5, temperature=0.0)
        assert torch.allclose(end, torch.full_like(end, expected), atol=1e-5), name


def test_only_f_reads_the_answer(pages, sentences):
    for name in (HEALTHY, *PATIENTS):
        change = np.array(debugging.answer_leaks(pages[name], sentences[name]))
        assert (np.diagonal(change) > 0).all() == (name == "F"), name
        assert not np.triu(change, 1).any(), "nobody sees a later patch"


def test_only_g_counts_padding(pages, batches):
    for name in (HEALTHY, *PATIENTS):
        page, batch = pages[name], batches[name]
        rows = len(debugging.what_goes_in(page, batch)["told"])
        plain, padded = (
            debugging.losses(page, b)["sound"] for b in (batch, debugging.with_padding(batch))
        )
        if name == "G":
            assert rows == batch[1].shape[0] * batch[1].shape[1] > int(batch[-1].sum())
            assert padded > plain + 0.1
        else:
            assert rows == int(batch[-1].sum())
            assert padded == pytest.approx(plain, rel=1e-4)


def test_b_and_e_are_trained_like_the_healthy_one():
    """E's line is not read in training: the same bits. B has the healthy one's weights."""
    after = {}
    for name in (HEALTHY, "E"):
        assert debugging.trained_as(name) == HEALTHY == debugging.trained_as("B")
        page = debugging.built(name)
        code = debugging.training_code(name, debugging.ONE_SENTENCE)
        after[name] = debugging.train(page, 2, code)
    assert after[HEALTHY] == after["E"] and len(after["E"]) == 2
    assert all(debugging.trained_as(name) == name for name in "ACDFG")


def test_no_clock_needed_is_what_the_extra_one_shows(pages, sentences):
    """The extra one swaps the mixture: what the network sees is the cleaner, the lower the time."""
    for name, rises in ((HEALTHY, True), ("clock", False)):
        seen = debugging.what_goes_in(pages[name], debugging.fixed_batch(pages[name], 8))
        share = debugging.clean_share(seen)
        assert (share[-1] > share[0] + 0.5) == rises, name


# --- the stored results


def test_record_is_of_a_clean_tree():
    assert RECORD["clean"] is True and RECORD["command"].startswith(
        "python benchmarks/debugging.py"
    )
    assert {VALUES[name]["illness"] for name in PATIENTS} == {p.name for p in PATIENTS.values()}


def test_files_fit_the_record():
    files = {file.stem for file in SOUNDS.glob("*.npz")}
    assert files == {HEALTHY, *debugging.SICK}
    assert sum(file.stat().st_size for file in SOUNDS.iterdir()) < 700_000
    for name in files:
        with np.load(SOUNDS / f"{name}.npz") as arrays:
            for k, clip in enumerate(VALUES[name]["said"]):
                assert arrays[f"rows_{k}"].shape == (4 * clip["frames"], 64)
                assert arrays[f"jaw_{k}"].shape == (clip["frames"], 1)
                jaw = torch.from_numpy(arrays[f"jaw_{k}"]).float()
                assert debugging.shake(jaw) == pytest.approx(clip["shake"], rel=0.05)
        curve = np.array(VALUES[name]["curve"])
        assert curve.shape == (VALUES["steps"] // debugging.CURVE, 3)


def test_listener_and_healthy_talker_are_good():
    assert VALUES["recordings"]["right"] > 0.95
    assert VALUES[HEALTHY]["digits"]["right"] >= 0.9
    assert VALUES[HEALTHY]["one_step"] < 0.2 and VALUES[HEALTHY]["scales"]["0"] < 0.5


def test_each_patient_is_worse_than_the_healthy_one_where_it_is_ill():
    well = VALUES[HEALTHY]
    worse = {  # patient: what is measured, higher is worse
        "A": lambda p: p["one_step"],
        "B": lambda p: p["running"]["sound"],
        "C": lambda p: p["enters"]["mouth"],
        "D": lambda p: p["stop"][0],
        "E": lambda p: 1 - p["digits"]["right"],
        "F": lambda p: float(np.diagonal(p["leak"]).max()),
        "G": lambda p: abs(p["padded"]["sound"] / p["running"]["sound"] - 1),
    }
    for name, measure in worse.items():
        assert measure(VALUES[name]) > measure(well) + 0.05, name
    for name in "ABCEF":
        assert VALUES[name]["digits"]["right"] < 0.6, name
    assert VALUES["D"]["digits"]["seconds"] < 0.7 * well["digits"]["seconds"]


def test_the_curves_hide_what_the_notebook_says_they_hide():
    seeds = np.array(VALUES["seeds"])
    middle, spread = seeds.mean(0), np.ptp(seeds, axis=0)
    inside = {
        name: bool((np.abs(np.array(VALUES[name]["last"]) - middle) <= 2 * spread).all())
        for name in PATIENTS
    }
    assert [name for name, yes in inside.items() if yes] == ["A", "B", "D", "E"]
    for name in "BE":
        assert VALUES[name]["curve"] == VALUES[HEALTHY]["curve"]
