"""Shared by all tests."""

import pytest
import torch
from golden_files import find_golden


def load_golden(name: str) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and description of one golden file; skips the test when the file is nowhere."""
    found = find_golden(name)
    if found is None:
        pytest.skip(
            f"golden vectors {name!r} are not at hand (too large for tests/golden); set "
            "TALKER_T2AV_GOLDEN to the full set"
        )
    return found


@pytest.fixture(scope="session")
def golden():
    """The function load_golden(name) -> (tensors, description); skips the test when
    the file is nowhere.
    """
    return load_golden
