"""Shared by all tests. PyTorch is not imported here: some runs need none of it."""

import pytest


def load_golden(name: str) -> tuple[dict, dict]:
    """Tensors and description of one golden file; skips the test when the file is nowhere."""
    from golden_files import find_golden

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
