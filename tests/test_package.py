"""The door to the package: light to open, and every public name behind it."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import talker_t2av

ROOT = Path(__file__).resolve().parent.parent


def test_import_loads_nothing():
    code = (
        "import sys, talker_t2av; dir(talker_t2av); assert not {'torch', 'numpy', "
        "'talker_t2av.inference.pipeline'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("name", talker_t2av.__all__)
def test_public_names_are_there(name):
    home = importlib.import_module(f"talker_t2av.{talker_t2av._HOME[name]}")
    assert (
        getattr(talker_t2av, name) is getattr(home, name)
        and name in dir(talker_t2av)
        and name in vars(talker_t2av)
    )


def test_whoever_keeps_clips_can_name_their_class():
    from talker_t2av import TalkingClip
    from talker_t2av.inference.pipeline import TalkingClip as same

    assert TalkingClip is same and "TalkingClip" in talker_t2av.__all__


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="Pipelin"):
        talker_t2av.__getattr__("Pipelin")
    assert not hasattr(talker_t2av, "Pipelin")
    with pytest.raises(ImportError):
        exec("from talker_t2av import Pipelin")


def test_one_version():
    stated = re.search(
        r"^version = (.+)$", (ROOT / "settings.ini").read_text(encoding="utf-8"), flags=re.M
    ).group(1)
    assert talker_t2av.__version__ == stated
