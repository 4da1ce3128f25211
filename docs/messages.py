"""The messages of a package, read from its source: what `docs/generate.py` writes to messages.md and plugins' pages.

A message is the text that an error of `farcluss.errors` is raised or returned with. Parts that only a run knows stand
in braces, as in the source.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import farcluss

PACKAGE = Path(farcluss.__file__).parent
ERRORS = ("RecipeError", "PluginError", "DataError", "SampleError", "MissingMask", "WeightsError", "RunError")
INTRO = """\
Every error that farcluss itself words, by the file that raises it: its kind, the function, and the innermost condition
or exception that leads to it. What stands in braces is filled in when it happens.

Some texts are put together from parts; of those the list shows what the source says in one place. An error of a file
in a list begins with the list and the line, an error in a recipe with the file or the `--set` that it stands in.
Messages of the plugins for scans and scenes stand on their pages of reference.

What nobody foresaw is said in three places: `unexpected ...: report it` for one file of many (`errors.py:failure`) and
for a whole command (`cli/__init__.py:_explain`), and `cannot be built with ...` for a plugin (`plugins/registry.py`).
`benchmarks/fuzz.py` and `benchmarks/trials.py` look for input that gets there."""


Functions = dict[str, ast.FunctionDef]


class Message(NamedTuple):
    """One text, and where it comes from.

    Attributes:
        file: below the package.
        line: of the source.
        function: that raises or returns it.
        error: class.
        trigger: the innermost condition or exception that leads to it, as in the source; empty for none.
        text: with the source of each part in braces.
    """

    file: str
    line: int
    function: str
    error: str
    trigger: str
    text: str


def messages(package: Path = PACKAGE) -> Iterator[Message]:
    """Every message of a package that says more than another error's text, in the order of files and lines."""
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package).as_posix()
        if not file.startswith("templates/"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            yield from _of(tree, Message(file, 0, "", "", "", ""), functions)


def _of(node: ast.AST, at: Message, functions: Functions) -> Iterator[Message]:
    """The messages in a node; `at` says where it is."""
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            at = at._replace(function=f"{at.function}.{name}".lstrip("."), trigger="")
        case ast.If(test=test):
            at = at._replace(trigger=f"if {ast.unparse(test)}")
        case ast.ExceptHandler(type=ast.expr() as kind):
            at = at._replace(trigger=f"except {ast.unparse(kind)}")
        case ast.Call(func=ast.Name(id=error), args=[first, *_]) if error in ERRORS:
            text = text_of(first, functions)
            if any(letter.isalpha() for letter in without_parts(text)):
                yield at._replace(line=node.lineno, error=error, text=text)
    for child in ast.iter_child_nodes(node):
        yield from _of(child, at, functions)


def text_of(node: ast.expr | None, functions: Functions) -> str:
    """A text in the source, also one that a function of the same file returns; empty where it is another's."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(str(p.value) if isinstance(p, ast.Constant) else _braced(p) for p in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return text_of(left, functions) + text_of(right, functions)
        case ast.IfExp(body=body, orelse=other):
            return text_of(body, functions) or text_of(other, functions)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in functions:
            returns = [n.value for n in ast.walk(functions[name]) if isinstance(n, ast.Return)]
            return next(filter(None, (text_of(value, {}) for value in returns)), "")
    return ""


def _braced(part: ast.expr) -> str:
    return f"{{{ast.unparse(part.value)}}}" if isinstance(part, ast.FormattedValue) else ""


def without_parts(text: str) -> str:
    """What is left of a text without its parts in braces, which may hold braces themselves."""
    depth, kept = 0, []
    for letter in text:
        depth += letter == "{"
        if not depth:
            kept.append(letter)
        depth -= letter == "}" and depth > 0
    return "".join(kept)


def listing(package: Path = PACKAGE, heading: str = "##") -> str:
    """The messages of a package, by file."""
    parts, file = list[str](), ""
    for message in messages(package):
        if message.file != file:
            file = message.file
            parts.append(f"{heading} {file}")
        trigger = f" `{' '.join(message.trigger.split())}`" if message.trigger else ""
        parts.append(f"{message.error}, `{message.function}`{trigger}:\n\n```text\n{message.text}\n```")
    return "\n\n".join(parts)
