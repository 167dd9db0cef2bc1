"""What the package offers, read from its source: names, signatures, comments and docstrings.

Used for the site's reference pages and by tests/test_docstrings.py.

Nothing is imported: the syntax tree gives the structure, the tokenizer the comments: one parameter
a line, with shape or unit beside it, or on lines of its own above it when it is long. What is said
above the closing bracket belongs to what is returned.
"""

import ast
import io
import re
import tokenize
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "talker_t2av"
# first part of the module's name -> title of its reference page; the last one takes the modules at
# the top of the package, too
GROUPS = {
    "world": "The world: sentences, voices, faces, clips",
    "codecs": "Codecs: audio, motion, speaker",
    "model": "The model: text, layers, backbone, heads, talker",
    "training": "Training: latents, losses, the talker's recipe",
    "inference": "Inference: generation, streaming, pipeline, commands",
    "evaluation": "Evaluation: metrics, reports",
    "studies": "Studies: other choices, measured",
    "released": "The released model: reading, converting, sizes",
    "common": "Tools: media, files, hub, trainer, figures, command line",
}


@dataclass
class Parameter:
    name: str
    type: str = ""
    default: str = ""
    comment: str = ""

    def written(self) -> str:
        """As in a signature: "x: Tensor", "steps: int = 8", "seed=0"."""
        if not self.default:
            return f"{self.name}: {self.type}" if self.type else self.name
        return (
            f"{self.name}: {self.type} = {self.default}"
            if self.type
            else f"{self.name}={self.default}"
        )


@dataclass
class Entry:
    """One public name: a function, a method, a class (with its methods and
    fields) or a constant.
    """

    name: str
    kind: str
    doc: str = ""
    parameters: list[Parameter] = field(default_factory=list)
    returns: str = ""
    comment: str = ""  # beside the return type, or beside the constant
    raises: set[str] = field(default_factory=set)
    members: list["Entry"] = field(default_factory=list)
    decorators: tuple[str, ...] = ()

    def signature(self) -> str:
        shown = [parameter.written() for parameter in self.parameters]
        end = f" -> {self.returns}" if self.returns else ""
        line = f"{self.name}({', '.join(shown)}){end}"
        if len(line) < 100:
            return line
        return f"{self.name}(\n    " + ",\n    ".join(shown) + f",\n){end}"


@dataclass
class Module:
    name: str  # without the package: "world.voice"
    doc: str
    entries: list[Entry]


class Comments:
    """The comments of a source, by line: `beside` code, and on lines of their own."""

    def __init__(self, source: str):
        self.beside: dict[int, str] = {}
        self.alone: dict[int, str] = {}
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT and not token.string.startswith("# %%"):
                place = self.alone if token.line.lstrip().startswith("#") else self.beside
                place[token.start[0]] = token.string.lstrip("# ").rstrip()

    def above(self, line: int) -> str:
        """What stands on the lines directly above one line."""
        found = []
        while (line := line - 1) in self.alone:
            found.insert(0, self.alone[line])
        return " ".join(found)

    def of(self, first: int, last: int) -> str:
        """What is said about the lines from `first` to `last`: above them, and beside the last."""
        return " ".join(filter(None, [self.above(first), self.beside.get(last, "")]))


def parameters_of(node: ast.FunctionDef, comments: Comments) -> list[Parameter]:
    """The parameters as written.

    A comment belongs to the last parameter on its line, or to the first one on the next line; the
    one beside a one-line signature to the whole.
    """
    args = node.args
    plain = [*args.posonlyargs, *args.args]
    pairs = list(zip(plain, [None] * (len(plain) - len(args.defaults)) + list(args.defaults)))
    pairs += [(args.vararg, None)] if args.vararg else []
    pairs += list(zip(args.kwonlyargs, args.kw_defaults))
    pairs += [(args.kwarg, None)] if args.kwarg else []
    stars = {args.vararg: "*", args.kwarg: "**"}
    found, last = [], {}
    for argument, default in pairs:
        if argument.arg in ("self", "cls"):
            continue
        text = Parameter(
            stars.get(argument, "") + argument.arg,
            ast.unparse(argument.annotation) if argument.annotation else "",
            ast.unparse(default) if default else "",
            comments.above(argument.lineno) if argument.lineno > node.lineno else "",
        )
        found.append(text)
        last[(default or argument).end_lineno] = text
    for line, parameter in last.items():
        one_line = line == node.lineno
        alone = len(found) == 1 and node.body[0].lineno > node.lineno
        if alone or len(last) > 1 or not one_line:
            beside = comments.beside.get(line, "")
            parameter.comment = " ".join(filter(None, [parameter.comment, beside]))
    return found


def comment_on_returns(node: ast.FunctionDef, comments: Comments, lines: list[str]) -> str:
    """What is said about the result: beside the return type, or above the closing bracket."""
    end = node.returns.end_lineno if node.returns else node.body[0].lineno - 1
    beside = comments.beside.get(end, "")
    if not lines[end - 1].lstrip().startswith(")"):
        return beside
    return " ".join(filter(None, [comments.above(end), beside]))


def raised_in(node: ast.FunctionDef) -> set[str]:
    """Names of the exceptions that the function itself raises for its callers (not those of
    functions inside it, not bare `raise`).
    """
    found, todo = set(), list(node.body)
    while todo:
        step = todo.pop()
        if isinstance(step, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if (
            isinstance(step, ast.Raise)
            and isinstance(step.exc, ast.Call)
            and isinstance(step.exc.func, ast.Name)
        ):
            found.add(step.exc.func.id)
        todo += ast.iter_child_nodes(step)
    return found - {"NotImplementedError", "AssertionError", "SystemExit"}


def function_entry(
    node: ast.FunctionDef, comments: Comments, lines: list[str], kind: str = "function"
) -> Entry:
    return Entry(
        node.name,
        kind,
        ast.get_docstring(node) or "",
        parameters_of(node, comments),
        ast.unparse(node.returns) if node.returns else "",
        comment_on_returns(node, comments, lines),
        raised_in(node),
        [],
        tuple(ast.unparse(d) for d in node.decorator_list),
    )


def field_of(step: ast.AnnAssign, comments: Comments) -> Parameter:
    """An annotated field of a class."""
    default = ast.unparse(step.value) if step.value else ""
    return Parameter(
        step.target.id,
        ast.unparse(step.annotation),
        default if len(default) < 60 else "...",
        comments.of(step.lineno, step.end_lineno),
    )


def class_entry(node: ast.ClassDef, comments: Comments, lines: list[str]) -> Entry:
    """A class with its public methods and annotated fields; the parameters of
    `__init__` are its own.
    """
    decorators = tuple(ast.unparse(d) for d in node.decorator_list)
    entry = Entry(node.name, "class", ast.get_docstring(node) or "", decorators=decorators)
    for step in node.body:
        if isinstance(step, ast.FunctionDef) and step.name == "__init__":
            made = function_entry(step, comments, lines)
            entry.parameters, entry.raises = made.parameters, made.raises
            entry.doc = " ".join(filter(None, [entry.doc, made.doc]))
        elif isinstance(step, ast.FunctionDef) and not step.name.startswith("_"):
            is_property = any("property" in ast.unparse(d) for d in step.decorator_list)
            kind = "property" if is_property else "method"
            entry.members.append(function_entry(step, comments, lines, kind))
        elif isinstance(step, ast.AnnAssign) and isinstance(step.target, ast.Name):
            if not step.target.id.startswith("_"):
                entry.parameters.append(field_of(step, comments))
    return entry


def constant_entries(node: ast.stmt, comments: Comments) -> list[Entry]:
    """Constants with the comment beside them, or the lines of comment above."""
    names = []
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        inside = [target] if isinstance(target, ast.Name) else getattr(target, "elts", [])
        names += [name.id for name in inside if isinstance(name, ast.Name)]
    beside = comments.beside.get(node.lineno) or comments.beside.get(node.end_lineno)
    value = ast.unparse(node.value) if node.value else ""
    return [
        Entry(
            name,
            "constant",
            returns=value if len(value) < 60 else "",
            comment=beside or comments.above(node.lineno),
        )
        for name in names
    ]


def read_module(path: Path) -> Module:
    """The public part of one module: what its `__all__` lists, in the order of the source."""
    source = path.read_text(encoding="utf-8")
    tree, comments, lines = ast.parse(source), Comments(source), source.splitlines()
    public: set[str] = set()
    entries: list[Entry] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            public = set(ast.literal_eval(node.value))
        elif isinstance(node, ast.FunctionDef):
            entries.append(function_entry(node, comments, lines))
        elif isinstance(node, ast.ClassDef):
            entries.append(class_entry(node, comments, lines))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            entries += constant_entries(node, comments)
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return Module(
        name, ast.get_docstring(tree) or "", [entry for entry in entries if entry.name in public]
    )


def read_package() -> list[Module]:
    """All modules of the package, sorted by name."""
    return [
        read_module(path)
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.stem not in ("__init__", "_modidx")
    ]


LETTER = re.compile(r"(?<![A-Za-z_'])([A-Z](?:_kv)?|d(?:_[a-z])?|[hw])(?![A-Za-z_'(])")


def letters_of(text: str) -> set[str]:
    """The letters of all shapes, "(B, N, d)", in comments and docstrings of some source."""
    found = set()
    for line in text.split("\n"):
        notes = [line.partition("#")[2]] + re.findall(r'"([^"]*)"', line)
        for inside in re.findall(r"\(([^()]*,[^()]*)\)", " ".join(notes)):
            parts = [part.strip() for part in inside.split(",") if part.strip()]
            short = all(re.fullmatch(r"[\w .*/+'\-]{1,12}", part) for part in parts)
            if short and any(re.fullmatch(r"[A-Z]|\d+", part) for part in parts):
                found |= {letter for part in parts for letter in LETTER.findall(part)}
    return found


def letter_homes() -> dict[str, list[str]]:
    """Letter of an axis -> the modules in whose shapes it occurs."""
    homes = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.stem != "_modidx":
            name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
            for letter in letters_of(path.read_text(encoding="utf-8")):
                homes.setdefault(letter, []).append(name)
    return dict(sorted(homes.items()))


def prose(text: str) -> str:
    """A docstring or comment as HTML: `names` become code, empty lines paragraphs."""
    parts = [
        re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(part, quote=False))
        for part in re.split(r"\n\s*\n", text.strip())
    ]
    return "".join(f"<p>{' '.join(part.split())}</p>" for part in parts if part)


def shown_signature(entry: Entry) -> str:
    """The line, or lines, by which a name is shown."""
    if entry.kind == "constant":
        return f"{entry.name} = {entry.returns or '...'}"
    if entry.kind == "property":
        return entry.name
    first = entry.decorators[0] if entry.kind == "method" and entry.decorators else ""
    return (f"@{first}\n" if "method" in first else "") + entry.signature()


def entry_html(entry: Entry) -> str:
    """Signature, docstring and the table of parameters, without empty lines (a Markdown page
    holds it as one block).
    """
    rows = [
        f"<tr><td><code>{escape(p.name)}</code></td><td>{prose(p.comment)}</td></tr>"
        for p in entry.parameters
        if p.comment
    ]
    of_whole_line = len(entry.parameters) == 1 and entry.parameters[0].comment == entry.comment
    if entry.comment and entry.kind != "constant" and not of_whole_line:
        rows.append(f"<tr><td>returns</td><td>{prose(entry.comment)}</td></tr>")
    table = f'<table class="api">{"".join(rows)}</table>' if rows else ""
    body = prose(entry.doc or (entry.comment if entry.kind == "constant" else ""))
    members = "".join(
        f'<div class="api-member">{entry_html(member)}</div>'
        for member in entry.members
        if member.doc
    )
    lines = escape(shown_signature(entry), quote=False).replace("\n", "&#10;")
    return f'<pre class="api">{lines}</pre>{body}{table}{members}'


def module_section(module: Module, notebook: str | None) -> str:
    """One module as Markdown: a heading, where it is written, and its names."""
    file = f"talker_t2av/{module.name.replace('.', '/')}.py"
    links = [f"[source](module_{module.name}.md)"] + (
        [f"[the notebook that builds it]({notebook})"] if notebook else []
    )
    parts = [
        f"## {module.name}",
        f"{module.doc.replace('$', chr(92) + '$')}\n\n`{file}` · " + " · ".join(links),
    ]
    named = [entry for entry in module.entries if entry.kind != "constant"]
    constants = [entry for entry in module.entries if entry.kind == "constant"]
    parts += [f"### {entry.name}\n\n{entry_html(entry)}" for entry in named]
    if constants:
        parts.append(
            f"### Constants of {module.name}\n\n"
            + "".join(entry_html(entry) for entry in constants)
        )
    return "\n\n".join(parts)


def group_of(module: Module) -> str:
    """The part of the package that a module belongs to; the command line is one of the tools."""
    return module.name.split(".")[0] if "." in module.name else list(GROUPS)[-1]


def reference_pages(notebooks: dict[str, str]) -> dict[str, str]:
    """Page name -> Markdown, for the groups that have modules; `notebooks`: module -> file
    name of its notebook.
    """
    modules, pages = read_package(), {}
    if lost := [m.name for m in modules if group_of(m) not in GROUPS]:
        raise SystemExit(f"docs/api.py: no group in GROUPS takes {', '.join(lost)}")
    for group, title in GROUPS.items():
        mine = [m for m in modules if group_of(m) == group]
        if mine:
            sections = [module_section(m, notebooks.get(m.name)) for m in mine]
            pages[f"api_{group}"] = "\n\n".join([f"# {title}", *sections]) + "\n"
    return pages
