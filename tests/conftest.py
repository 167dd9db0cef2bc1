"""Shared by all tests: where the golden vectors are."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
FOLDERS = [Path(os.environ.get("TALKER_T2AV_GOLDEN", HERE / "golden")), HERE / "golden"]


def load_golden(name: str) -> tuple[dict[str, torch.Tensor], dict]:
    """Tensors and description of one golden file: from $TALKER_T2AV_GOLDEN when it is set and has it, else from tests/golden."""
    for folder in FOLDERS:
        if (folder / f"{name}.safetensors").is_file():
            return load_file(folder / f"{name}.safetensors"), json.loads((folder / f"{name}.json").read_text())
    pytest.skip(f"golden vectors {name!r} are not at hand (over 1 MB, so not in tests/golden); set TALKER_T2AV_GOLDEN to the full set")


@pytest.fixture(scope="session")
def golden():
    """The function load_golden(name) -> (tensors, description); skips the test when the file is nowhere."""
    return load_golden
