"""Summary, documentation and options of a plugin, parsed from its source without importing it.

Importing a stage imports torch, which listing plugins and checking a recipe must avoid. So the source is parsed: the
keyword-only parameters of a function, or of a class's constructor, are the options; their defaults must be literals and
their annotations built-in types or those of `farcluss.plugins.options`. `@with_options_of(OTHER)` is followed to the
source of the other. Anything else is imported and inspected.
"""

import ast
import importlib.machinery
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from farcluss.errors import suggestion

REQUIRED = inspect.Parameter.empty
_BUILT_IN = {"float": float, "int": int, "bool": bool, "str": str, "list": list, "tuple": tuple, "dict": dict}
_NO_OPTIONS = ("torch.nn.modules.module", "typing")
"""Modules of base classes whose constructor takes `**kwargs` but has no options."""
_SHARING = "farcluss.plugins.sharing"
_ARGS = re.compile(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", re.MULTILINE)
_ARGUMENT = re.compile(r"    (\**\w+)(?: \(.*?\))?: ")

Definition = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class Option:
    """One option of a plugin."""

    annotation: Any
    default: Any
    help: str = ""


@dataclass(frozen=True)
class Description:
    """Documentation and options, as printed by `plugins show` and used to validate recipes."""

    doc: str = ""
    options: dict[str, Option] = field(default_factory=dict)
    open: bool = False
    """Whether the plugin accepts any option (`**options`)."""

    @property
    def summary(self) -> str:
        """First line of the documentation."""
        return self.doc.strip().partition("\n")[0]

    def with_options_of(self, shared: "Description") -> "Description":
        """With those options of another that it has not itself."""
        further = {name: option for name, option in shared.options.items() if name not in self.options}
        return Description(join_docs(self.doc, shared.doc, further), self.options | further, shared.open)

    def check(self, plugin: str, given: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """Converted options with defaults filled in, and errors in the `given` ones as (option or "", text) pairs."""
        from pydantic import ValidationError

        try:
            return dict(self._model().model_validate(given)), []
        except ValidationError as error:
            found: dict[str, str] = {}
            for item in error.errors():
                option = str(item["loc"][0]) if item["loc"] else ""
                if item["type"] == "extra_forbidden":
                    text = f"{plugin} has no such option{suggestion(option, self.options)}"
                elif item["type"] == "missing":
                    text = f"{plugin} needs this option."
                else:
                    text = f"{item['msg'].removeprefix('Value error, ')}, not {item['input']!r}."
                found.setdefault(option, text)
            return {}, list(found.items())

    def _model(self) -> Any:
        from pydantic import ConfigDict, create_model, field_validator

        from farcluss.plugins.options import no_bool_for_a_number

        wanted: dict[str, Any] = {
            key: (option.annotation, ... if option.default is REQUIRED else option.default)
            for key, option in self.options.items()
        }
        config = ConfigDict(
            extra="allow" if self.open else "forbid", arbitrary_types_allowed=True, protected_namespaces=()
        )
        checks: Any = {"numbers": field_validator("*", mode="before")(no_bool_for_a_number)}
        return create_model("Options", __config__=config, __validators__=checks, **wanted)


def source_of(module: str) -> bytes | None:
    """Source of a module, found without importing it or its parents; None when it is not plain source.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    path: Any = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        try:
            spec = sys.modules[name].__spec__ if name in sys.modules else _find(name, path)
        except KeyError:  # a namespace package inside another is found only after its parent is imported
            return None
        path = spec.submodule_search_locations if spec else None
        if spec is None or (path is None and depth < len(parts)):
            missing = name if spec is None else module
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
    return Path(spec.origin).read_bytes() if spec and spec.origin and spec.origin.endswith(".py") else None


def _find(name: str, path: Any) -> importlib.machinery.ModuleSpec | None:
    for finder in sys.meta_path:
        if spec := getattr(finder, "find_spec", lambda *_: None)(name, path):
            return spec  # type: ignore[no-any-return]
    return None


def find_definition(module: str, attribute: str) -> tuple[Definition | None, ast.Module]:
    """The one class or function that `module:attribute` names, and its module; None if it has to be imported.

    Raises:
        ImportError, SyntaxError: an import would fail, too.
    """
    source = source_of(module)
    if source is None or not (attribute or "").isidentifier():
        return None, ast.Module([], [])
    tree = _parse(source)
    found = [n for n in tree.body if isinstance(n, Definition) and n.name == attribute]
    others = [n for n in _module_scope(tree) if n not in found]
    if len(found) == 1 and not any(_binds(n, attribute) for n in others):
        return found[0], tree
    if not found and not any(_binds(n, attribute) or _binds(n, "__getattr__") for n in others):
        raise ImportError(f"module {module!r} has no attribute {attribute!r}")
    return None, tree


@lru_cache(maxsize=64)
def _parse(source: bytes) -> ast.Module:
    """Cached by content: the same plugins are described several times when a run starts."""
    return ast.parse(source)


def _module_scope(node: ast.AST) -> Iterator[ast.AST]:
    """Everything in a module but the bodies of its functions and classes."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _module_scope(child)


def _binds(node: ast.AST, name: str) -> bool:
    """Whether a statement or target binds `name`."""
    match node:
        case ast.alias():
            return node.asname == name if node.asname else node.name in (name, "*")
        case ast.Name(ctx=ast.Store()):
            return node.id == name
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            return node.name == name
    return False


def describe_source(module: str, attribute: str) -> Description | None:
    """Description of `module:attribute` from source; None if it has to be imported.

    Raises:
        ImportError, SyntaxError: an import would fail, too.
    """
    node, tree = find_definition(module, attribute)
    sources = None if node is None else _shared(node, tree, module)
    if node is None or sources is None:
        return None
    found = _describe(node, tree)
    for source in sources:
        shared = describe_source(*source)
        found = found and shared and found.with_options_of(shared)
    return found


def _shared(node: Definition, tree: ast.Module, module: str) -> list[tuple[str, str]] | None:
    """Module and name of what `with_options_of` says over a definition; None for decorators that say something else."""
    markers = {local for local, name in _imported(tree, _SHARING).items() if name == "with_options_of"}
    found = []
    for decorator in reversed(node.decorator_list):
        match decorator:
            case ast.Call(func=ast.Name(id=marker), args=[ast.Name(id=name)], keywords=[]) if marker in markers:
                found.append(_origin(name, tree, module))
            case _:
                return None
    return found


def _origin(name: str, tree: ast.Module, module: str) -> tuple[str, str]:
    """Module and name of what a module imports, or else defines, as `name`."""
    for node in (n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module and not n.level):
        for alias in node.names:
            if name == (alias.asname or alias.name):
                return str(node.module), alias.name
    return module, name


def _describe(node: Definition, tree: ast.Module) -> Description | None:
    """Description of a definition without its decorators; None when only an import can tell."""
    doc = ast.get_docstring(node) or ""
    function: Any = node
    if isinstance(node, ast.ClassDef):
        function = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if function is None:
            kinds = _imported(tree, "farcluss.stages.base")
            plain = not node.keywords and all(ast.unparse(base) in kinds for base in node.bases)
            return Description(doc) if plain else None
    helps = argument_docs(doc) | argument_docs(ast.get_docstring(function) or "")
    names = _types(tree)
    try:
        options = {
            arg.arg: Option(_annotation(arg, names), _default(default), helps.get(arg.arg, ""))
            for arg, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
        }
    except (NameError, ValueError, TypeError, AttributeError, SyntaxError):
        return None
    return Description(doc, options, open=function.args.kwarg is not None)


def _imported(tree: ast.Module, module: str) -> dict[str, str]:
    """Names that a module imports `from` another: local name to original name."""
    nodes = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module == module and not n.level]
    return {alias.asname or alias.name: alias.name for node in nodes for alias in node.names}


def _types(tree: ast.Module) -> dict[str, Any]:
    """The names that annotations of a module may use."""
    from farcluss.plugins import options

    known = {local: getattr(options, name) for local, name in _imported(tree, options.__name__).items()}
    words = {"Annotated": Annotated, "Any": Any, "Literal": Literal}
    known |= {local: words[name] for local, name in _imported(tree, "typing").items() if name in words}
    return {**_BUILT_IN, **known, "__builtins__": {}}


def _annotation(arg: ast.arg, names: dict[str, Any]) -> Any:
    node = arg.annotation
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        node = ast.parse(node.value, mode="eval").body
    return Any if node is None else eval(compile(ast.Expression(node), "<annotation>", "eval"), names)


def _default(node: ast.expr | None) -> Any:
    return REQUIRED if node is None else ast.literal_eval(node)


def describe_object(thing: Any) -> Description:
    """Description of an imported class or function."""
    doc = inspect.getdoc(thing) or ""
    initializer = thing.__init__ if inspect.isclass(thing) else thing
    if inspect.isclass(thing) and getattr(initializer, "__module__", "") in _NO_OPTIONS:
        return Description(doc)
    helps = argument_docs(doc) | argument_docs(inspect.getdoc(initializer) or "")
    names = getattr(inspect.unwrap(initializer), "__globals__", {})
    try:
        parameters = inspect.signature(thing).parameters.values()
        # Only options: positional parameters may have types that only type checkers import.
        options = {
            p.name: Option(_evaluated(p.annotation, names), p.default, helps.get(p.name, ""))
            for p in parameters
            if p.kind is p.KEYWORD_ONLY
        }
    except (TypeError, ValueError, NameError, AttributeError, SyntaxError):
        return Description(doc, open=True)
    return Description(doc, options, open=any(p.kind is p.VAR_KEYWORD for p in parameters))


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    if annotation is REQUIRED:
        return Any
    return eval(annotation, names) if isinstance(annotation, str) else annotation


def argument_docs(doc: str) -> dict[str, str]:
    """The texts of a Google-style `Args:` block, by argument."""
    return {
        name: " ".join(line.strip() for line in _ARGUMENT.sub("", text, count=1).splitlines())
        for name, text in _arguments(inspect.cleandoc(doc)).items()
    }


def _arguments(doc: str) -> dict[str, str]:
    """The entries of an `Args:` block as they are written, by argument."""
    entries: dict[str, str] = {}
    block, name = _ARGS.search(doc), ""
    for line in block[1].splitlines() if block else ():
        if match := _ARGUMENT.match(line):
            name, entries[match[1]] = match[1], line
        elif name and line.strip():
            entries[name] += f"\n{line}"
    return entries


def join_docs(doc: str, shared: str, names: Iterable[str]) -> str:
    """A docstring with those entries of another's `Args:` block that are of `names`, after its own."""
    doc, entries = inspect.cleandoc(doc), _arguments(inspect.cleandoc(shared))
    added = "\n".join(entries[name] for name in names if name in entries)
    if not added:
        return doc
    block = _ARGS.search(doc)
    if block is None:
        return f"{doc}\n\nArgs:\n{added}"
    end = block.start() + len(block[0].rstrip())
    return f"{doc[:end]}\n{added}{doc[end:]}"


def readable(annotation: Any) -> str:
    """A type in words: `float in [0, 1]`, `int >= 1`, `"hard" or "soft"`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    from farcluss.plugins.options import Color

    if annotation == Color:
        return 'color "#rrggbb"'
    if origin is Annotated:
        return readable(arguments[0]) + _bounds(arguments[1:])
    if origin in (Union, UnionType, Literal):
        texts = [_quoted(a) if origin is Literal else readable(a) for a in arguments]
        return ", ".join(texts[:-1]) + " or " + texts[-1] if len(texts) > 1 else texts[0]
    if origin is list or Ellipsis in arguments:
        return f"list of {readable(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(map(readable, arguments))}]"
    if annotation in (Any, NoneType):
        return "any value" if annotation is Any else "unset"
    return getattr(annotation, "__name__", None) or str(annotation)


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _bounds(marks: tuple[Any, ...]) -> str:
    limits: dict[str, Any] = {}
    for mark in [m for outer in marks for m in getattr(outer, "metadata", [outer])]:
        limits |= {key: getattr(mark, key) for key in ("ge", "gt", "le", "lt") if getattr(mark, key, None) is not None}
    if len(limits) == 2:
        low, high = sorted(limits)  # "ge" and "gt" sort before "le" and "lt"
        return f" in {'[' if low == 'ge' else '('}{limits[low]}, {limits[high]}{']' if high == 'le' else ')'}"
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    return "".join(f" {signs[key]} {value}" for key, value in limits.items())


def file_module(path: str) -> ModuleType:
    """Import a file as a module of its own, for `farcluss run --plugin FILE.py`."""
    name = f"farcluss_local_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
