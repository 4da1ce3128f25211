"""What a plugin says about itself: summary, documentation, options, read from its source without importing it.

Importing a stage means importing torch; listing plugins and checking a recipe must not. So the source is parsed: the
keyword-only parameters of a function, or of a class's constructor, are the options; their defaults must be literals and
their annotations built-in types or those of `farcluss.options`. Whatever cannot be read this way is imported and inspected.
"""

import ast
import importlib.machinery
import importlib.util
import inspect
import re
import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from pydantic import ConfigDict, create_model

import farcluss.options

REQUIRED = inspect.Parameter.empty
_NAMES = {**vars(farcluss.options), "float": float, "int": int, "bool": bool, "str": str, "list": list,
          "tuple": tuple, "dict": dict, "None": None}  # fmt: skip


@dataclass(frozen=True)
class Option:
    """One option of a plugin."""

    annotation: Any
    default: Any
    help: str = ""


@dataclass(frozen=True)
class Description:
    """What `plugins show` prints and a recipe is validated against."""

    doc: str = ""
    options: dict[str, Option] = field(default_factory=dict)
    open: bool = False
    """Whether the plugin takes any keyword (`**options`)."""

    @property
    def summary(self) -> str:
        """First line of the documentation."""
        return self.doc.strip().partition("\n")[0]

    def model(self, name: str) -> Any:
        """A pydantic model of the options, to validate a recipe's table with."""
        wanted: dict[str, Any] = {
            key: (option.annotation, ... if option.default is REQUIRED else option.default)
            for key, option in self.options.items()
        }
        config = ConfigDict(extra="allow" if self.open else "forbid", arbitrary_types_allowed=True)
        return create_model(name, __config__=config, **wanted)


def source_of(module: str) -> str | None:
    """Source text of a module, found without importing it or its parents; None when it is not plain source.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    path = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        loaded = sys.modules.get(name)
        spec = loaded.__spec__ if loaded else _find(name, path)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}")
        path = spec.submodule_search_locations
    if not spec.origin or not spec.origin.endswith(".py"):
        return None
    with open(spec.origin, encoding="utf-8") as file:
        return file.read()


def _find(name: str, path: Any) -> importlib.machinery.ModuleSpec | None:
    for finder in sys.meta_path:
        if spec := getattr(finder, "find_spec", lambda *_: None)(name, path):
            return spec  # type: ignore[no-any-return]
    return None


def describe_source(module: str, attribute: str) -> Description | None:
    """Description of `module:attribute` from source; None when only an import can tell.

    Raises:
        ImportError, SyntaxError: the plugin cannot be imported either.
    """
    source = source_of(module)
    if source is None:
        return None
    tree = ast.parse(source)
    nodes = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == attribute]
    if not nodes:
        if any(isinstance(n, ast.Import | ast.ImportFrom | ast.Assign | ast.If | ast.Try) and attribute in ast.unparse(n)
               for n in tree.body):  # fmt: skip
            return None
        raise ImportError(f"module {module!r} has no attribute {attribute!r}")
    node = nodes[-1]
    function = next((n for n in ast.walk(node) if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if isinstance(node, ast.FunctionDef):
        function = node
    if function is None:
        return None if node.bases and not _is_module(node) else Description(doc=ast.get_docstring(node) or "")  # type: ignore[union-attr]
    doc = ast.get_docstring(node) or ""
    helps = argument_docs(doc + "\n" + (ast.get_docstring(function) or ""))
    try:
        options = {
            arg.arg: Option(_annotation(arg), _default(default), helps.get(arg.arg, ""))
            for arg, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
        }
    except (NameError, ValueError, TypeError, AttributeError):
        return None
    return Description(doc, options, open=function.args.kwarg is not None)


def _is_module(node: ast.ClassDef) -> bool:
    """Whether a class without a constructor derives from a stage class, whose constructor takes no options."""
    from farcluss.plugins import GROUPS

    kinds = {"".join(word.title() for word in group.split("_")) for group in GROUPS} | {"Module", "Protocol"}
    return all(ast.unparse(base).split(".")[-1] in kinds for base in node.bases)


def _annotation(arg: ast.arg) -> Any:
    if arg.annotation is None:
        return Any
    return eval(compile(ast.Expression(arg.annotation), "<annotation>", "eval"), {"__builtins__": {}}, _NAMES)  # noqa: S307


def _default(node: ast.expr | None) -> Any:
    return REQUIRED if node is None else ast.literal_eval(node)


def describe_object(thing: Any) -> Description:
    """Description of an imported class or function."""
    doc = inspect.getdoc(thing) or ""
    initializer = thing.__init__ if inspect.isclass(thing) else thing
    helps = argument_docs(doc + "\n" + (inspect.getdoc(initializer) or ""))
    try:
        parameters = inspect.signature(thing, eval_str=True).parameters.values()
    except (TypeError, ValueError, NameError):
        return Description(doc, open=True)
    options = {
        p.name: Option(Any if p.annotation is REQUIRED else p.annotation, p.default, helps.get(p.name, ""))
        for p in parameters
        if p.kind is p.KEYWORD_ONLY
    }
    return Description(doc, options, open=any(p.kind is p.VAR_KEYWORD for p in parameters))


def argument_docs(doc: str) -> dict[str, str]:
    """The texts of a Google-style `Args:` block, by argument."""
    texts: dict[str, str] = {}
    block = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", inspect.cleandoc(doc), re.MULTILINE)
    name = ""
    for line in (block.group(1) if block else "").splitlines():
        if match := re.match(r"    (\w+)(?: \(.*?\))?: (.*)", line):
            name, texts[match[1]] = match[1], match[2]
        elif name and line.strip():
            texts[name] += " " + line.strip()
    return texts


def file_module(path: str, name: str) -> ModuleType:
    """Import a file as a module, for `farcluss run --plugin FILE.py`."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
