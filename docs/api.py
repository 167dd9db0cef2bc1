"""What the package offers, read from its source: names, signatures, comments and docstrings.

Used for the site's reference pages and by tests/test_docstrings.py.

Nothing is imported: the syntax tree gives the structure, the tokenizer the comments (one parameter
per line, with shape or unit beside it).
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
# first part of the module's name -> title of its reference page; "" takes what is in none of the
# folders
GROUPS = {
    "world": "The world: sentences, voices, faces, clips",
    "codecs": "Codecs: sound, motion, speaker",
    "model": "The model: text, layers, backbone, heads, talker",
    "evaluation": "Evaluation: metrics, baselines, ablations",
    "": "Tools, training, generation, commands",
}


@dataclass
class Parameter:
    name: str
    type: str = ""
    default: str = ""
    comment: str = ""


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
        shown = [
            p.name
            + (f": {p.type}" if p.type else "")
            + ((" = " if p.type else "=") + p.default if p.default else "")
            for p in self.parameters
        ]
        end = f" -> {self.returns}" if self.returns else ""
        line = f"{self.name}({', '.join(shown)}){end}"
        return (
            line
            if len(line) < 110
            else f"{self.name}(\n    " + ",\n    ".join(shown) + f",\n){end}"
        )


@dataclass
class Module:
    name: str  # without the package: "world.voice"
    doc: str
    entries: list[Entry]


def comments_of(source: str) -> dict[int, str]:
    """Line number -> comment on it, without the hash."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith("# %%"):
            found[token.start[0]] = token.string.lstrip("# ").rstrip()
    return found


def parameters_of(node: ast.FunctionDef, comments: dict[int, str]) -> list[Parameter]:
    """The parameters as written.

    A comment belongs to the last parameter on its line; the one beside a one-line signature to the
    whole.
    """
    args = node.args
    plain = [*args.posonlyargs, *args.args]
    pairs = list(zip(plain, [None] * (len(plain) - len(args.defaults)) + list(args.defaults)))
    pairs += (
        [(args.vararg, None)] * bool(args.vararg)
        + list(zip(args.kwonlyargs, args.kw_defaults))
        + [(args.kwarg, None)] * bool(args.kwarg)
    )
    stars = {args.vararg: "*", args.kwarg: "**"}
    found, last = [], {}
    for argument, default in pairs:
        if argument.arg in ("self", "cls"):
            continue
        text = Parameter(
            stars.get(argument, "") + argument.arg,
            ast.unparse(argument.annotation) if argument.annotation else "",
            ast.unparse(default) if default else "",
        )
        found.append(text)
        last[(default or argument).end_lineno] = text
    body = node.body[0].lineno
    for line, parameter in last.items():
        if line > node.lineno or len(last) > 1:
            parameter.comment = comments.get(line, "")
        elif line == node.lineno and body > node.lineno and len(found) == 1:
            parameter.comment = comments.get(line, "")
    return found


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
    node: ast.FunctionDef, comments: dict[int, str], kind: str = "function"
) -> Entry:
    returns = ast.unparse(node.returns) if node.returns else ""
    line = node.returns.end_lineno if node.returns else node.body[0].lineno - 1
    decorators = tuple(ast.unparse(d) for d in node.decorator_list)
    return Entry(
        node.name,
        kind,
        ast.get_docstring(node) or "",
        parameters_of(node, comments),
        returns,
        comments.get(line, ""),
        raised_in(node),
        [],
        decorators,
    )


def class_entry(node: ast.ClassDef, comments: dict[int, str]) -> Entry:
    """A class with its public methods and annotated fields; the parameters of
    `__init__` are its own.
    """
    entry = Entry(
        node.name,
        "class",
        ast.get_docstring(node) or "",
        decorators=tuple(ast.unparse(d) for d in node.decorator_list),
    )
    for step in node.body:
        if isinstance(step, ast.FunctionDef) and step.name == "__init__":
            made = function_entry(step, comments)
            entry.parameters, entry.raises, entry.doc = (
                made.parameters,
                made.raises,
                " ".join(filter(None, [entry.doc, made.doc])),
            )
        elif isinstance(step, ast.FunctionDef) and not step.name.startswith("_"):
            entry.members.append(
                function_entry(
                    step,
                    comments,
                    "property"
                    if any("property" in ast.unparse(d) for d in step.decorator_list)
                    else "method",
                )
            )
        elif (
            isinstance(step, ast.AnnAssign)
            and isinstance(step.target, ast.Name)
            and not step.target.id.startswith("_")
        ):
            default = ast.unparse(step.value) if step.value else ""
            entry.parameters.append(
                Parameter(
                    step.target.id,
                    ast.unparse(step.annotation),
                    default if len(default) < 60 else "...",
                    comments.get(step.end_lineno, ""),
                )
            )
    return entry


def constant_entries(node: ast.stmt, comments: dict[int, str], lines: list[str]) -> list[Entry]:
    """Constants with the comment beside them, or the line of comment above."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    names = [
        name.id
        for target in targets
        for name in ([target] if isinstance(target, ast.Name) else getattr(target, "elts", []))
        if isinstance(name, ast.Name)
    ]
    above = (
        comments.get(node.lineno - 1, "") if lines[node.lineno - 2].lstrip().startswith("#") else ""
    )
    comment = comments.get(node.lineno) or comments.get(node.end_lineno) or above
    value = ast.unparse(node.value) if node.value else ""
    return [
        Entry(name, "constant", returns=value if len(value) < 60 else "", comment=comment)
        for name in names
    ]


def read_module(path: Path) -> Module:
    """The public part of one module: what its `__all__` lists, in the order of the source."""
    source = path.read_text(encoding="utf-8")
    tree, comments, lines = ast.parse(source), comments_of(source), source.splitlines()
    public: set[str] = set()
    entries: list[Entry] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            public = set(ast.literal_eval(node.value))
        elif isinstance(node, ast.FunctionDef):
            entries.append(function_entry(node, comments))
        elif isinstance(node, ast.ClassDef):
            entries.append(class_entry(node, comments))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            entries += constant_entries(node, comments, lines)
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


def prose(text: str) -> str:
    """A docstring or comment as HTML: `names` become code, empty lines paragraphs."""
    parts = [
        re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(part, quote=False))
        for part in re.split(r"\n\s*\n", text.strip())
    ]
    return "".join(f"<p>{' '.join(part.split())}</p>" for part in parts if part)


def entry_html(entry: Entry) -> str:
    """Signature, docstring and the table of parameters, without empty lines (a Markdown page
    holds it as one block).
    """
    what = (
        f"@{entry.decorators[0]}\n"
        if entry.kind == "method" and entry.decorators and "method" in entry.decorators[0]
        else ""
    )
    shown = (
        f"{entry.name} = {entry.returns or '...'}"
        if entry.kind == "constant"
        else entry.name
        if entry.kind == "property"
        else entry.signature()
    )
    rows = [
        f"<tr><td><code>{escape(p.name)}</code></td><td>{prose(p.comment)}</td></tr>"
        for p in entry.parameters
        if p.comment
    ]
    if (
        entry.comment
        and entry.kind != "constant"
        and not (len(entry.parameters) == 1 and entry.parameters[0].comment == entry.comment)
    ):
        rows.append(f"<tr><td>returns</td><td>{prose(entry.comment)}</td></tr>")
    table = f'<table class="api">{"".join(rows)}</table>' if rows else ""
    body = prose(entry.doc or (entry.comment if entry.kind == "constant" else ""))
    members = "".join(
        f'<div class="api-member">{entry_html(member)}</div>'
        for member in entry.members
        if member.doc
    )
    lines = escape(what + shown, quote=False).replace("\n", "&#10;")
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


def reference_pages(notebooks: dict[str, str]) -> dict[str, str]:
    """Page name -> Markdown, for the groups that have modules; `notebooks`: module -> file
    name of its notebook.
    """
    modules, pages = read_package(), {}
    for group, title in GROUPS.items():
        mine = [m for m in modules if (m.name.split(".")[0] if "." in m.name else "") == group]
        if mine:
            pages[f"api_{group or 'tools'}"] = (
                f"# {title}\n\n"
                + "\n\n".join(module_section(m, notebooks.get(m.name)) for m in mine)
                + "\n"
            )
    lost = [m.name for m in modules if "." in m.name and m.name.split(".")[0] not in GROUPS]
    if lost:
        raise SystemExit(f"docs/api.py: no group in GROUPS takes {', '.join(lost)}")
    return pages
