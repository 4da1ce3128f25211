"""Reads and validates recipes; all errors of a recipe are reported at once, each with file and key path.

Order of precedence, lowest first: the recipe that `extends` names, the recipe, each `--with` overlay followed by what
`[with.NAME]` of both says of it, each `--set`. A key of the recipe itself goes before `[with.NAME]` of its base.
"""

import os
import tomllib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from pydantic import ValidationError

from farcluss.errors import RecipeError, counted, short, suggestion
from farcluss.recipes.model import Defaults, Recipe, parts
from farcluss.recipes.sections import Section
from farcluss.recipes.texts import read_text
from farcluss.recipes.training import Train

Key = tuple[str, ...]
CLASSES = ("data", "classes")
EITHER: dict[Key, str] = {("train", "steps"): "epochs", ("train", "epochs"): "steps"}
"""Keys that exclude each other: what is set later, in another place, takes the other's place."""
Origins = dict[Key, str]


class Layer(NamedTuple):
    """A recipe's file: its path, what it changes with overlays by their names, and all else."""

    path: Path
    adapted: dict[str, dict[str, Any]]
    table: dict[str, Any]


DEEPEST = 20
"""The most tables inside each other, far more than any plugin has options in."""


def recipe_folder() -> Path:
    """The folder of the shipped recipes, of an installed package or of a source tree."""
    package = Path(__file__).parent.parent
    inside = package / "_recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def find_recipe(name: str | os.PathLike[str], below: str = "") -> Path:
    """Path of a recipe by path or by shipped name.

    Raises:
        RecipeError: no such file or name; the message suggests similar names.
    """
    for path in (Path(name), recipe_folder() / below / f"{name}.toml"):
        if path.is_file():
            return path
    known = [p.stem for p in sorted((recipe_folder() / below).glob("*.toml"))]
    raise RecipeError(f"There is no recipe file or shipped recipe {short(name)!r}{suggestion(str(name), known)}\n"
                      "`farcluss recipes list` shows the shipped ones.")  # fmt: skip


def load_recipe(
    source: str | os.PathLike[str], overlays: Sequence[str | os.PathLike[str]] = (), settings: Sequence[str] = ()
) -> Recipe:
    """Read, merge and validate a recipe.

    Args:
        source: path or shipped name.
        overlays: paths or shipped names below `methods/`, merged over it in order.
        settings: `a.b=VALUE`; VALUE is a TOML literal, or else a string.

    Raises:
        RecipeError: with one line per error, each with file and key path.
    """
    table = read_table(path := find_recipe(source))
    merged, origins, recipes = dict[str, Any](), Origins(), []
    if (parent := base_of(path, table)) is not None:
        lower = read_table(parent)
        if "extends" in lower:
            raise RecipeError(f"{path}: extends: {parent} extends another file; only one level is allowed.")
        recipes.append(Layer(parent, _pop_with(lower, parent), lower))
        _merge(merged, lower, str(parent), origins)
    table.pop("extends", None)
    recipes.append(Layer(path, _pop_with(table, path), table))
    _merge(merged, table, str(path), origins)
    names = [str(merged.get("name") or path.stem)]
    files = [find_recipe(overlay, "methods") for overlay in overlays]
    _check_methods(files)
    for file in files:
        names.append(_overlay(merged, origins, file, recipes))
    merged["name"] = name = "-".join(names)
    batch = _at(merged, ("train", "batch")) or Train.model_fields["batch"].default
    for setting in settings:
        _merge(merged, _parse_setting(setting), f"--set {short(setting, 80)}", origins)
    merged["name"] = merged["name"] or name  # empty means the default, in --set as in a file
    if _at(merged, ("train", "scale_lr")) is True:
        merged["train"]["scale_lr"] = batch  # the batch size before --set
    return _validate(merged, origins, path)


def _overlay(merged: dict[str, Any], origins: Origins, file: Path, recipes: Sequence[Layer]) -> str:
    """Merge an overlay, then what each recipe says of it, the base first; the overlay's name.

    What the recipe itself says goes before what its base says of an overlay.
    """
    table = read_table(file)
    name = str(table.pop("name", file.stem))
    _merge(merged, table, str(file), origins)
    own = dict(_leaves(recipes[-1].table)).keys() - dict(_leaves(table)).keys()
    for recipe in recipes:
        changes = recipe.adapted.get(file.stem, {})
        changes = changes if recipe is recipes[-1] else _without(changes, own)
        _merge(merged, changes, f"{recipe.path}: with.{file.stem}", origins)
    return name


def _check_methods(files: list[Path]) -> None:
    """Refuse two shipped methods at once: what the second does not set would stay as the first has it."""
    folder = (recipe_folder() / "methods").resolve()
    methods = [file.stem for file in files if file.resolve().parent == folder]
    if len(methods) > 1:
        raise RecipeError(f"--with {' --with '.join(methods)}: these are methods of their own. Give one of them.")


def _leaves(table: dict[str, Any], key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """All values in nested tables, each with its path of keys."""
    for name, value in table.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*key, name))
        else:
            yield (*key, name), value


def _without(table: dict[str, Any], keys: Collection[Key], key: Key = ()) -> dict[str, Any]:
    """Nested tables without the values at some paths of keys."""
    return {
        name: _without(value, keys, (*key, name)) if isinstance(value, dict) else value
        for name, value in table.items()
        if (*key, name) not in keys
    }


def _pop_with(table: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """Take what a recipe changes with an overlay, by the overlay's name, out of its table. Raises RecipeError."""
    changes = table.pop("with", {})
    if not isinstance(changes, dict) or not all(isinstance(each, dict) for each in changes.values()):
        raise RecipeError(f"{path}: with: must be tables by the name of an overlay, such as [with.fixmatch].")
    methods = [file.stem for file in (recipe_folder() / "methods").glob("*.toml")]
    for name in changes:
        beside = (path.parent / f"{name}.toml").is_file()
        if name not in methods and not beside and (hint := suggestion(name, methods)) != ".":
            raise RecipeError(f"{path}: with.{short(name)}: there is no such method{hint}")
    return changes


def validate(table: dict[str, Any], changes: dict[str, Any]) -> Recipe:
    """A recipe from a table of plain values, as in a weights file, with some keys overridden. Raises RecipeError."""
    merged, origins = dict[str, Any](), Origins()
    _merge(merged, table, "recipe of the weights", origins)
    _merge(merged, changes, "--set", origins)
    return _validate(merged, origins, Path("of the weights"))


def merge_settings(settings: Sequence[str]) -> dict[str, Any]:
    """`a.b=VALUE` texts as one nested table. Raises RecipeError for a text without `=`."""
    merged: dict[str, Any] = {}
    for setting in settings:
        _merge(merged, _parse_setting(setting), f"--set {short(setting, 80)}", {})
    return merged


def _validate(merged: dict[str, Any], origins: Origins, path: Path) -> Recipe:
    merged.setdefault("train", {})
    for key, name in DEFAULT_PARTS.items():
        if isinstance(table := _at(merged, key), dict):
            table.setdefault("name", name)
    recipe, errors = None, []
    try:
        recipe = Recipe.model_validate(merged)
    except ValidationError as error:
        errors = [_explain(e, merged, origins, path) for e in error.errors()]
    lines = list(dict.fromkeys(errors + _check_parts(merged, origins, path)))
    if recipe is None or lines:
        raise RecipeError(report(lines, path))
    return recipe


def report(lines: list[str], path: Path) -> str:
    """All errors of a recipe under one heading."""
    return "\n".join([f"{counted(len(lines), 'error')} in recipe {path}:", *(f"  {line}" for line in lines)])


def base_of(path: Path, table: dict[str, Any]) -> Path | None:
    """The file that a recipe file with these keys extends; None for none. Raises RecipeError when there is no such."""
    if (base := table.get("extends")) is None:
        return None
    if not isinstance(base, str) or not (parent := path.parent / base).is_file():
        raise RecipeError(f"{path}: extends: there is no file {short(base)} in {path.parent}. Give the path of a file.")
    return parent


def read_table(path: Path) -> dict[str, Any]:
    """The keys of a recipe file alone, without what it extends. Raises RecipeError."""
    return parse_toml(read_text(path, RecipeError), str(path))


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The table of a TOML text; `where` begins the message. Raises RecipeError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where} is not valid TOML: {error}.") from None
    except RecursionError:
        raise RecipeError(f"{where} is nested too deeply. Write it with fewer brackets and dots.") from None
    except ValueError:  # Python converts no integer of thousands of digits
        raise RecipeError(f"{where} has a number with too many digits. A number has 64 bits at most.") from None


def _merge(into: dict[str, Any], table: dict[str, Any], origin: str, origins: Origins, at: Key = ()) -> None:
    """Merge `table` into `into`; classes, and plugins with another name, are replaced entirely.

    Raises:
        RecipeError: a key or value that no file or array can hold.
    """
    for key, value in table.items():
        here, old = (*at, key), into.get(key)
        if wrong := "is nested too deeply" if len(here) > DEEPEST else _unusable(key) or _unusable(value):
            raise RecipeError(f"{origin}: {short('.'.join(here), 80)}: {wrong}.")
        origins[here] = origin
        if here in DEFAULT_PARTS and isinstance(value, str):
            value = {"name": value}
        if isinstance(value, dict):
            old = old if isinstance(old, dict) else {}
            name = old.get("name", DEFAULT_PARTS.get(here))
            whole = here == CLASSES or (here in DEFAULT_PARTS and value.get("name", name) != name)
            into[key] = {} if whole else dict(old)
            _merge(into[key], value, origin, origins, here)
        else:
            into[key] = value
            other = EITHER.get(here)
            if other and value is not None and origins.get((*at, other)) not in (None, origin):
                into.pop(other, None)


def _unusable(value: Any) -> str:
    """Why neither files nor arrays can hold a value; empty for others."""
    if isinstance(value, list):
        return next(filter(None, map(_unusable, value)), "")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "has more than 64 bits"
    if isinstance(value, str) and "\0" in value:
        return "holds a NUL character"
    return "is not valid UTF-8" if isinstance(value, str) and not _encodes(value) else ""


def _encodes(text: str) -> bool:
    """Whether a text is one in UTF-8; arguments of the command line need not be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parse_setting(setting: str) -> dict[str, Any]:
    key, separator, text = setting.partition("=")
    shown = f"--set {short(setting, 80)}"
    if not separator or not all(key.split(".")):
        raise RecipeError(f"{shown}: write it as key.path=VALUE, for example --set train.lr=0.01.")
    value: Any = text
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        table = {"value": text}
    except (RecursionError, ValueError):
        table = parse_toml(f"value = {text}", shown)  # which raises with what is wrong
    if table.keys() != {"value"}:
        raise RecipeError(f"{shown}: sets several keys. Give each key its own --set.")
    value = table["value"]
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def _explain(error: Any, merged: dict[str, Any], origins: Origins, path: Path) -> str:
    """One line per pydantic error: file, key path, what is wrong, what is expected."""
    from farcluss.plugins.signatures import readable

    unknown = error["type"] == "extra_forbidden"  # else parts in brackets are types, not keys
    location = tuple(str(part) for part in error["loc"] if unknown or "[" not in str(part))
    key = next((location[:n] for n in range(len(location), 0, -1) if location[:n] in origins), ())
    origin, name, value = origins.get(key, str(path)), ".".join(key or location), _at(merged, key)
    if unknown:
        return f"{origin}: unknown key {name}{suggestion(key[-1], getattr(_kind(key[:-1]), 'model_fields', ()))}"
    if error["type"] == "value_error":
        return f"{origin}: {name}: {error['msg'].removeprefix('Value error, ')}."
    kind = _kind(key)
    expected = "a table" if isinstance(kind, type) and issubclass(kind, Section) else readable(kind)
    return f"{origin}: {name}: must be {expected}, not {short(repr(value))}."


def _at(table: Any, key: Key) -> Any:
    for part in key:
        table = table.get(part) if isinstance(table, dict) else None
    return table


def _kind(key: Key) -> Any:
    """The type of a recipe key, with its bounds."""
    kind: Any = Recipe
    for part in key:
        if field := getattr(kind, "model_fields", {}).get(part):
            kind = Annotated[field.annotation, field] if field.metadata else field.annotation
        else:  # a key chosen by the user, such as a class
            kind = next((get_args(a)[1] for a in get_args(kind) if get_origin(a) is dict), Any)
    return kind


_DEFAULTS = parts(Recipe(train=Train(steps=1)).with_defaults(Defaults()))
DEFAULT_PARTS = {tuple(key.split(".")): part.name for key, _, part in _DEFAULTS}


def _check_parts(merged: dict[str, Any], origins: Origins, path: Path) -> list[str]:
    """Errors in the names and options of the plugins, found without importing them if their source can be parsed."""
    from farcluss.plugins import registry

    lines = []
    for (_, group, default), at in zip(_DEFAULTS, DEFAULT_PARTS, strict=True):
        table = _at(merged, at)
        if not isinstance(table, dict) or not isinstance(table.get("name"), str):
            continue  # a default, or an error that has already been reported
        options = {k: v for k, v in table.items() if k not in type(default).model_fields}
        for name, problem in registry.problems(group, table["name"], options):
            full = (*at, name) if name else at
            origin = next((origins[full[:n]] for n in range(len(full), 0, -1) if full[:n] in origins), str(path))
            lines.append(f"{origin}: {'.'.join(full)}: {problem}")
    return lines
