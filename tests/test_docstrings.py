"""Every public name says what it is: a docstring, shapes where it takes or gives arrays,
the errors it raises.

`python tests/test_docstrings.py` lists what is missing.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

from api import Comments, Entry, Module, class_entry, function_entry, read_package  # noqa: E402

# the whole annotation: a dict or a list of tensors has no one shape
ARRAY = re.compile(r"(Tensor|np\.ndarray|ndarray)( \| None)?")
# (B, N, d), (T,), "same shape as", "one number"
SHAPE = re.compile(r"\([^()]*\w[^()]*,[^()]*\)|scalar|shape|\b(same|like|number)\b")
# PyTorch's methods: the docstring of their class speaks for them
OWN_WORDS = {"forward", "extra_repr"}
NOT_YET = set(
    (Path(__file__).parent / "docstrings_not_yet.txt").read_text(encoding="utf-8").split()
)


def faults(entry: Entry, where: str, of_class: str = "") -> list[str]:
    """What one public name fails to say, as "place:fault" without spaces; `of_class` is the
    docstring of the class around a method.
    """
    if entry.kind == "constant":
        return []
    name, found = f"{where}.{entry.name}", []
    text = " ".join([entry.doc, entry.comment])
    if (
        entry.kind == "property"
        and not text.strip()
        or entry.kind != "property"
        and not entry.doc
        and entry.name not in OWN_WORDS
    ):
        found.append(f"{name}:docstring")
    if entry.name in OWN_WORDS:
        text += of_class
    if entry.kind != "class" and len(entry.parameters) >= 2:
        found += [
            f"{name}:shape-of-{p.name}"
            for p in entry.parameters
            if ARRAY.fullmatch(p.type) and not SHAPE.search(p.comment or text)
        ]
    found += [f"{name}:{error}" for error in sorted(entry.raises) if error not in text]
    for member in entry.members:
        found += faults(member, name, entry.doc)
    return found


def faults_of(module: Module) -> list[str]:
    return ([] if len(module.doc) > 20 else [f"{module.name}:docstring"]) + [
        fault for entry in module.entries for fault in faults(entry, module.name)
    ]


def test_every_public_name_says_what_it_is():
    """A docstring each; a shape for each array of a function with two parameters or more; each
    error that is raised is named.
    """
    found = {fault for module in read_package() for fault in faults_of(module)}
    assert not found - NOT_YET, f"write these in the notebook: {sorted(found - NOT_YET)}"
    assert not NOT_YET - found, (
        f"mended or gone, so remove from tests/docstrings_not_yet.txt: {sorted(NOT_YET - found)}"
    )


BAD = """
def scale(x: Tensor, factor: float) -> Tensor:
    if factor < 0: raise ValueError("no")
def plain(): "Long enough."; pass
class Net(nn.Module):
    "A net."
    def forward(self, x: Tensor, mask: Tensor): return x
    def other(self): return 1
"""
GOOD = """
def scale(x: Tensor, factor: float) -> Tensor:  # (B, N) both
    "Scaled. Raises ValueError for a negative factor."
    if factor < 0: raise ValueError("no")
def grow(
    x: Tensor,  # (T,) samples
    factor: float,  # of the length
): "More."
class Net(nn.Module):
    "A net: x (B, N), mask (B, N) -> (B, N)."
    def forward(self, x: Tensor, mask: Tensor): return x
"""


def test_the_check_can_fail():
    """It finds a missing docstring, shape and error, and lets good code pass."""

    def check(source):
        comments, lines, found = Comments(source), source.splitlines(), []
        for node in ast.parse(source).body:
            make = class_entry if isinstance(node, ast.ClassDef) else function_entry
            found += faults(make(node, comments, lines), "m")
        return found

    assert check(BAD) == [
        "m.scale:docstring",
        "m.scale:shape-of-x",
        "m.scale:ValueError",
        "m.Net.forward:shape-of-x",
        "m.Net.forward:shape-of-mask",
        "m.Net.other:docstring",
    ]
    assert check(GOOD) == []


ABOVE = """
def fit(
    # what is learnt from,
    # (B, N, d)
    data: Tensor,
    rate: float = 0.1,  # a step
    # the end of training; None: when
    # nothing changes
    steps: int | None = None,
    # (B,) the losses
) -> Tensor:
    "Fits."
class Size:
    "Sizes."
    # numbers in a latent
    dim: int = 4
    width: int = 8  # of a layer
def plain(x: Tensor) -> Tensor:  # (B, N) both
    "One."
"""


def test_comments_may_stand_above():
    """A long comment stands on lines of its own above its parameter, or above the bracket."""
    comments, lines = Comments(ABOVE), ABOVE.splitlines()
    fit, size, plain = ast.parse(ABOVE).body
    entry = function_entry(fit, comments, lines)
    assert {p.name: p.comment for p in entry.parameters} == {
        "data": "what is learnt from, (B, N, d)",
        "rate": "a step",
        "steps": "the end of training; None: when nothing changes",
    }
    assert entry.comment == "(B,) the losses"
    fields = class_entry(size, comments, lines).parameters
    assert [field.comment for field in fields] == ["numbers in a latent", "of a layer"]
    one = function_entry(plain, comments, lines)
    assert one.comment == one.parameters[0].comment == "(B, N) both"


if __name__ == "__main__":
    print(*(fault for module in read_package() for fault in faults_of(module)), sep="\n")
