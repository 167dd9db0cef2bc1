"""Shared by all tests. PyTorch is not imported here: some runs need none of it."""

import gc

import pytest

# Files that take 10 s of CPU time or more, the longest first. `make test` hands whole files to two
# workers in this order, so that neither waits for the other at the end.
LONGEST_FIRST = (
    "released",
    "browser",
    "recipe",
    "pictures",
    "pipeline",
    "evaluation_command",
    "text_normalization",
    "motion_training",
    "cli",
    "say",
    "same_bytes",
    "corpus",
    "training",
    "audio_training",
    "training_loop",
    "motion_codec",
    "packaging",
    "talker",
    "motion_studies",
    "semantic_training",
    "generation",
    "neural_voice",
    "backbone",
    "audio_codec",
    "judge",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the longest files come first; inside a file nothing moves."""

    def place(item: pytest.Item) -> int:
        name = item.path.stem.removeprefix("test_")
        return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """What the imports made is there to stay: no search for garbage goes through it."""
    gc.freeze()


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
