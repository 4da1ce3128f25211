"""Plugins: entry points found by name, loaded one by one, refused with the name of whoever is to blame.

The convention of every group: positional parameters come from farcluss, keyword-only parameters are the options of the
recipe. Built-in plugins are registered by the entry points of farcluss's own distribution, like anybody's.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import ValidationError

from farcluss.errors import PluginError
from farcluss.signatures import Description, describe_object, describe_source, file_module

GROUPS = ("augment", "pseudo_label", "weight", "rebalance", "contrast", "network", "dataset", "writer", "command")
_registered: dict[tuple[str, str], tuple[Any, str]] = {}


@dataclass(frozen=True)
class Plugin:
    """One entry point, not yet imported."""

    group: str
    name: str
    distribution: str
    version: str
    entry_point: EntryPoint | None = None

    def load(self) -> Any:
        """Import it. Raises PluginError with the distribution's name when that fails in any way."""
        if self.entry_point is None:
            return _registered[self.group, self.name][0]
        try:
            return self.entry_point.load()
        except Exception as error:
            raise PluginError(
                f"Plugin {self.group}/{self.name} of distribution {self.distribution} {self.version} fails to import:\n"
                f"{type(error).__name__}: {error}. Repair or uninstall {self.distribution}."
            ) from error

    def describe(self) -> Description:
        """Documentation and options, from source where possible. Raises PluginError like `load`."""
        if self.entry_point is not None:
            try:
                found = describe_source(self.entry_point.module, self.entry_point.attr)
            except (ImportError, SyntaxError):
                found = None
            if found is not None:
                return found
        return describe_object(self.load())


def find(group: str) -> Iterator[Plugin]:
    """All plugins of a group, sorted by name; two with one name are both given."""
    third_party = os.environ.get("FARCLUSS_PLUGINS") != ""
    found = [Plugin(g, name, origin, "") for (g, name), (_, origin) in _registered.items() if g == group]
    for point in entry_points(group=f"farcluss.{group}"):
        distribution = point.dist.name if point.dist else "unknown"
        if third_party or distribution == "farcluss":
            found.append(Plugin(group, point.name, distribution, point.dist.version if point.dist else "", point))
    return iter(sorted(set(found), key=lambda p: (p.name, p.distribution)))


def get(group: str, name: str) -> Plugin:
    """The one plugin of that name.

    Raises:
        PluginError: no such plugin (with suggestions), or two distributions claim the name.
    """
    from farcluss.recipe import suggestion

    plugins = [plugin for plugin in find(group) if plugin.name == name]
    if len(plugins) > 1:
        owners = " and ".join(f"{p.distribution} {p.version}".strip() for p in plugins)
        raise PluginError(f"Two plugins are called {group}/{name}: from {owners}. Uninstall one of them.")
    if not plugins:
        names = [plugin.name for plugin in find(group)]
        raise PluginError(f"there is no {group} plugin {name!r}{suggestion(name, names)} Known: {', '.join(names)}.")
    return plugins[0]


def problems(group: str, name: str, options: dict[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with a recipe's use of a plugin: (option or "", text) pairs."""
    from farcluss.recipe import suggestion

    try:
        description = get(group, name).describe()
    except PluginError as error:
        return [("", str(error))]
    try:
        description.model(name).model_validate(options)
    except ValidationError as error:
        found = {}
        for item in error.errors():
            option = str(item["loc"][0]) if item["loc"] else ""
            if item["type"] == "extra_forbidden":
                text = f"{group} {name!r} has no such option{suggestion(option, description.options)}"
            else:
                text = f"{item['msg'].removeprefix('Value error, ')}, not {item['input']!r}."
            found.setdefault(option, text)
        return list(found.items())
    return []


def build(group: str, name: str, options: dict[str, Any], *context: Any, kind: type | None = None) -> Any:
    """Load a plugin and call it with `context` and its validated options.

    Raises:
        PluginError: it is missing, broken, refuses its options, or gives something other than `kind`.
    """
    plugin = get(group, name)
    if wrong := problems(group, name, options):
        raise PluginError("\n".join(f"{group}/{name}: {option}: {text}" for option, text in wrong))
    validated = plugin.describe().model(name).model_validate(options)
    result = plugin.load()(*context, **dict(validated))
    if kind is not None and not isinstance(result, kind):
        raise PluginError(f"Plugin {group}/{name} of {plugin.distribution} gives a {type(result).__name__}, "
                          f"not a {kind.__name__}; see docs/plugins.md.")  # fmt: skip
    return result


def register(group: str, name: str, thing: Any, origin: str = "this process") -> None:
    """Add a plugin to this process only, as tests and `--plugin FILE.py` do.

    Raises:
        PluginError: there is no such group.
    """
    if group not in GROUPS:
        raise PluginError(f"There is no plugin group {group!r}; the groups are {', '.join(GROUPS)}.")
    _registered[group, name] = (thing, origin)


def unregister(group: str, name: str) -> None:
    """Take a registered plugin away again."""
    _registered.pop((group, name), None)


def load_file(path: str) -> None:
    """Run a local Python file that calls `farcluss.plugins.register`. Raises PluginError with its path if it fails."""
    try:
        file_module(path, "farcluss_local_plugin")
    except Exception as error:
        raise PluginError(f"--plugin {path} fails: {type(error).__name__}: {error}.") from error
