"""Stored results: made by the weights that ship, and with intervals that hold their value."""

import json

import pytest

from talker_t2av.common.hub import WEIGHTS
from talker_t2av.common.media import data_dir, file_sha256

RESULTS = sorted((data_dir() / "results").glob("*.json"))
SMALL = data_dir() / "small"
SHIPPED = {path.parent.name: file_sha256(path) for path in SMALL.glob(f"*/{WEIGHTS}")}


def names_other_weights(record: dict, shipped: dict[str, str]) -> list[str]:
    """Kinds of networks that a result rests on, and that ship with other weights."""
    parents = record.get("parents", {})
    return [kind for kind, sha in parents.items() if shipped.get(kind) != sha]


def bad_intervals(value, where: str = "") -> list[str]:
    """Places of intervals that do not hold their own value."""
    if isinstance(value, list):
        return [bad for i, part in enumerate(value) for bad in bad_intervals(part, f"{where}[{i}]")]
    if not isinstance(value, dict):
        return []
    found = [bad for key, part in value.items() for bad in bad_intervals(part, f"{where}/{key}")]
    if {"value", "low", "high"} <= set(value) and not any(
        value[part] is None for part in ("value", "low", "high")
    ):
        slack = 1e-9 * max(1.0, abs(value["value"]))
        if not value["low"] - slack <= value["value"] <= value["high"] + slack:
            found.append(where)
    return found


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_are_of_the_weights_that_ship(path):
    assert not names_other_weights(json.loads(path.read_text()), SHIPPED)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_intervals_hold_their_value(path):
    """Fréchet's may lie below its value: it is biased upwards, and its interval corrects that."""
    bad = [where for where in bad_intervals(json.loads(path.read_text())) if "frechet" not in where]
    bad = [where for where in bad if not where.endswith("/spectrum")]  # mirrored like Fréchet's
    assert not bad


def test_the_checks_can_fail():
    record = {"parents": {"talker": "a", "judge": "b"}}
    assert names_other_weights(record, {"talker": "a", "judge": "c"}) == ["judge"]
    assert names_other_weights(record, {"talker": "a"}) == ["judge"]
    assert not names_other_weights({"values": {}}, {"talker": "a"})
    good, bad = {"value": 1, "low": 0, "high": 2}, {"value": 3, "low": 0, "high": 2}
    assert bad_intervals({"rows": [good, {"x": bad}]}) == ["/rows[1]/x"]
