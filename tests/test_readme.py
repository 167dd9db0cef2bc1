"""What README.md tells people to type works: every command and every piece of Python in it, from
blocks and from running text.

Quick ones are run. For long ones (training, the whole test suite, a download) the words are checked
without doing the work.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from talker_t2av import cli
from talker_t2av.cli import COMMANDS, command_parser

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import readme  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")
# of the packages and the clone: tests/test_packaging.py installs for real
ELSEWHERE = ("pip install", "git clone", "cd ")
# subcommands whose options are only parsed here
LONG = ("train", "corpus build", "latents", "evaluate")
KINDS = ("make ", "talker-t2av ", ".venv/bin/talker-t2av ", *ELSEWHERE)


def pieces(text: str) -> tuple[list[str], list[str]]:
    """Commands (one a line) and Python sources of a Markdown text: fenced and indented blocks,
    and inline code that begins like a command.
    """
    commands, sources = [], []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.M | re.S):
        if language == "python":
            sources.append(block)
        elif language in ("sh", "bash", "console", ""):
            commands += [line.strip().removeprefix("$ ") for line in block.split("\n")]
    plain = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    commands += [line.strip() for line in re.findall(r"^ {4}(\S.*)$", plain, flags=re.M)]
    for code in re.findall(r"`([^`\n]+)`", plain):
        if code.startswith(("from talker_t2av", "import talker_t2av")):
            sources.append(code)
        elif code.startswith(KINDS):
            commands.append(code)
    commands = [re.sub(r"\s+#.*$", "", command) for command in commands]
    return list(
        dict.fromkeys(command for command in commands if command and not command.startswith("#"))
    ), sources


ALL_COMMANDS, SOURCES = pieces(README)


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_command(command, tmp_path, monkeypatch, capsys):
    """make: the rule exists and its recipe can be written out; talker-t2av: it is run in this
    process, or its words are parsed if it is long.
    """
    assert command.startswith(KINDS), (
        f"README.md has a command of a kind that this test does not know: {command!r}"
    )
    words = shlex.split(command)
    if words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    elif (
        words[0].endswith("talker-t2av")
        and (rest := command.split("talker-t2av ", 1)[1]).startswith(LONG)
        and "--help" not in words
    ):
        name = next(name for name in COMMANDS if rest.startswith(name))
        command_parser(name).parse_args(words[1 + len(name.split()) :])
        return
    elif words[0].endswith("talker-t2av"):
        monkeypatch.chdir(tmp_path)
        try:
            code = cli.main(words[1:])
        except SystemExit as end:  # --help
            code = end.code or 0
        assert code == 0, capsys.readouterr().err[-1500:]
        return
    else:
        return
    assert done.returncode == 0, done.stderr[-1500:]


@pytest.mark.parametrize("source", SOURCES)
def test_python(source, tmp_path, monkeypatch):
    """Runs as a program of its own in an empty folder; tests/test_packaging.py does so in a fresh
    process.
    """
    monkeypatch.chdir(tmp_path)
    exec(compile(source, "README.md", "exec"), {"__name__": "__main__"})


def test_links():
    """Files that README.md links to are there."""
    targets = [
        target.split("#")[0]
        for target in re.findall(r"\]\(([^)\s]+)\)", README)
        if not re.match(r"\w+:", target)
    ]
    assert targets and not [target for target in targets if target and not (ROOT / target).exists()]


def test_computed_parts_are_fresh():
    """Contents, results and trainings, as docs/readme.py would write them today."""
    assert readme.filled(README) == README, "run: python docs/readme.py"


def test_a_lost_mark_is_noticed():
    with pytest.raises(ValueError, match="contents"):
        readme.filled(README.replace("<!-- contents -->", ""))


def test_a_result_becomes_a_table(tmp_path, monkeypatch):
    """Measures of `table` as rows under `about`, systems as columns; an empty title for the
    column that names the measure.
    """
    (tmp_path / "evaluation.json").write_text(
        '{"command": "c", "values": {"about": "Two clips.", "table": [{"row": "truth", "errors, '
        '%": 0.9}, {"row": "codec", "errors, %": 2}]}}'
    )
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    text = readme.first_table("evaluation")
    assert (
        text.startswith("Two clips. (")
        and "|  | truth | codec |" in text
        and "| errors, % | 0.9 | 2 |" in text
    )


def test_the_search_finds_all_kinds():
    commands, sources = pieces(
        "    make demo  # a film\n\nSay `make lab` or `x = 1`.\n\n```sh\ntalker-t2av demo hi  # "
        "hi\n```\n\n```python\nprint(1)\n```\n"
    )
    assert commands == ["talker-t2av demo hi", "make demo", "make lab"] and sources == [
        "print(1)\n"
    ]
    assert len(ALL_COMMANDS) >= 5, "README.md should say what to type"
