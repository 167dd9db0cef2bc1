"""Where the golden vectors are: $TALKER_T2AV_GOLDEN when it is set and has the
file, else tests/golden.
"""

import json
import os
from pathlib import Path

from safetensors.torch import load_file

HERE = Path(__file__).parent
FOLDERS = [Path(os.environ.get("TALKER_T2AV_GOLDEN", HERE / "golden")), HERE / "golden"]


def find_golden(name: str):
    """(tensors, description) of one golden file, None when it is nowhere.

    A large file may lie in parts: NAME.1of4.safetensors, ...
    """
    for folder in FOLDERS:
        parts = (
            [folder / f"{name}.safetensors"]
            if (folder / f"{name}.safetensors").is_file()
            else sorted(folder.glob(f"{name}.*of*.safetensors"))
        )
        if parts:
            tensors = {key: value for part in parts for key, value in load_file(part).items()}
            return tensors, json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return None
