"""Plugins: entry points found by name and loaded on demand; errors name the distribution at fault.

The convention of every group: positional parameters come from farcluss, keyword-only parameters are the options of the
recipe. Built-in plugins are registered by the entry points of farcluss's own distribution, like those of third parties.
"""

import ast
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, distributions, entry_points
from typing import Any

from farcluss.errors import FAILURES, FarclussError, PluginError, short, suggestion
from farcluss.plugins.signatures import Description, describe_object, describe_source, file_module, find_definition

GROUPS = (
    *("augment", "mix", "perturb", "pseudo_label", "weight", "rebalance", "contrast"),
    *("network", "dataset", "writer", "command", "init"),
)
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
        """Import it. Raises PluginError with the distribution's name when the import fails."""
        if self.entry_point is None:
            return _registered[self.group, self.name][0]
        try:
            return self.entry_point.load()
        except FAILURES as error:
            raise self._broken("fails to import", error) from error

    def peek(self) -> str | None:
        """Summary without an import; None if the source lacks it. Raises PluginError if the import would fail."""
        if self.entry_point is None:
            return describe_object(self.load()).summary
        try:
            node, _ = find_definition(self.entry_point.module, self.entry_point.attr)
        except FAILURES as error:
            raise self._broken("fails to import", error) from error
        return Description(ast.get_docstring(node) or "").summary if node else None

    def describe(self) -> Description:
        """Documentation and options, from source where possible. Raises PluginError like `load`."""
        if self.entry_point is not None:
            try:
                found = describe_source(self.entry_point.module, self.entry_point.attr)
            except FAILURES:  # the import below raises the same error, with the name of the distribution
                found = None
            if found is not None:
                return found
        return describe_object(self.load())

    def build(self, options: dict[str, Any], *context: Any) -> Any:
        """Call it with `context` and valid options.

        Raises:
            PluginError: it fails; where it is the plugin's own code that does, with the values that it refuses.
        """
        thing = self.load()
        try:
            return thing(*context, **options)
        except FarclussError:
            raise
        except FAILURES as error:
            raise self._refused(error, options) from error

    def _refused(self, error: BaseException, options: dict[str, Any]) -> PluginError:
        """The error for a call that fails: of a plugin that is broken, or that its values make fail."""
        if not isinstance(error, Exception) or isinstance(error, ImportError):
            return self._broken("fails", error)
        # The first frame is that of `build`; without another, the call itself is not possible.
        if error.__traceback__ is None or error.__traceback__.tb_next is None:
            return self._broken("cannot be called", error)
        if isinstance(error, OSError) and error.filename:
            return PluginError(f"{self.group}/{self.name}: {error.filename} cannot be used: {error.strerror}.")
        given = ", ".join(f"{name} = {value!r}" for name, value in options.items()) or "no options"
        return PluginError(
            f"Plugin {self.group}/{self.name} of {self._owner} cannot be built with {short(given)}:\n"
            f"{type(error).__name__}: {short(error)}.\n"
            f"Give other values; if these are right, report it to the authors of {self.distribution}."
        )

    @property
    def _owner(self) -> str:
        return f"{self.distribution} {self.version}".strip()

    def _broken(self, how: str, error: BaseException) -> PluginError:
        advice = f"Repair or uninstall {self.distribution}" if self.entry_point else f"Repair {self.distribution}"
        reason = f"{type(error).__name__}: {short(error)}"
        return PluginError(f"Plugin {self.group}/{self.name} of {self._owner} {how}: {reason}.\n{advice}.")


def find(group: str | None = None) -> Iterator[Plugin]:
    """All plugins of a group, or of every group, sorted by name, including duplicates."""
    third_party = os.environ.get("FARCLUSS_PLUGINS") != ""
    groups = GROUPS if group is None else (group,)
    found = {Plugin(g, name, origin, "") for (g, name), (_, origin) in _registered.items() if g in groups}
    for plugin in _installed(tuple(sys.path)):
        if plugin.group in groups and (third_party or plugin.distribution == "farcluss"):
            found.add(plugin)
    return iter(sorted(found, key=lambda p: (groups.index(p.group), p.name, p.distribution)))


@lru_cache(maxsize=1)
def _installed(path: tuple[str, ...]) -> tuple[Plugin, ...]:
    """The entry points of every group on `sys.path`; cached, as finding them reads files of every distribution."""
    points = _entry_points()
    found = []
    owners: dict[int, tuple[str, str]] = {}  # reading a distribution's name parses its metadata
    for kind, point in ((g, point) for g in GROUPS for point in points.select(group=f"farcluss.{g}")):
        dist = point.dist
        if id(dist) not in owners:
            owners[id(dist)] = (dist.name, dist.version) if dist else ("unknown", "")
        found.append(Plugin(kind, point.name, *owners[id(dist)], point))
    return tuple(found)


def _entry_points() -> Any:
    """Those of all distributions. Raises PluginError with the name of one whose `entry_points.txt` is broken."""
    try:
        return entry_points()
    except Exception:
        for dist in distributions():
            try:
                dist.entry_points  # noqa: B018 (which reads the file)
            except Exception as error:
                where = dist.locate_file(".")
                raise PluginError(f"The entry_points.txt of {dist.name} in {where} cannot be read: {error}.\n"
                                  f"Repair or uninstall {dist.name}.") from None  # fmt: skip
        raise


def get(group: str, name: str) -> Plugin:
    """The plugin of that name. Raises PluginError if there is none, with suggestions, or more than one, with owners."""
    known = list(find(group))
    plugins = [plugin for plugin in known if plugin.name == name]
    if len(plugins) > 1:
        owners = " and ".join(f"{p.distribution} {p.version}".strip() for p in plugins)
        raise PluginError(f"Two plugins are called {group}/{name}: from {owners}. Uninstall one of them.")
    if not plugins:
        names = [plugin.name for plugin in known]
        listed = ", ".join(dict.fromkeys(names)) or "none"
        _installed.cache_clear()  # so that plugins installed since, as from a notebook, are found next time
        raise PluginError(f"there is no {group} plugin {name!r}{suggestion(name, names)} Known: {listed}.")
    return plugins[0]


def problems(group: str, name: str, options: dict[str, Any]) -> list[tuple[str, str]]:
    """What is wrong with a recipe's use of a plugin: (option or "", text) pairs."""
    try:
        return get(group, name).describe().check(f"{group} {name!r}", options)[1]
    except PluginError as error:
        return [("", str(error))]


def build(group: str, name: str, options: dict[str, Any], *context: Any, kind: type | None = None) -> Any:
    """Load a plugin and call it with `context` and its validated options.

    Raises:
        PluginError: it is missing, broken, rejects its options, or does not return a `kind`.
    """
    plugin = get(group, name)
    valid, wrong = plugin.describe().check(f"{group} {name!r}", options)
    if wrong:
        raise PluginError("\n".join(f"{group}/{name}: {option}: {text}" for option, text in wrong))
    result = plugin.build(valid, *context)
    if kind is not None and not isinstance(result, kind):
        raise PluginError(f"Plugin {group}/{name} of {plugin.distribution} returns a {type(result).__name__}, "
                          f"not a {kind.__name__}. See docs/plugins.md.")  # fmt: skip
    return result


def register(group: str, name: str, thing: Any, origin: str = "this process") -> None:
    """Register a plugin in this process only, as tests and `--plugin FILE.py` do. Raises PluginError: no such group."""
    if group not in GROUPS:
        raise PluginError(f"There is no plugin group {group!r}; the groups are {', '.join(GROUPS)}.")
    _registered[group, name] = (thing, origin)


def unregister(group: str, name: str) -> None:
    """Remove a registered plugin."""
    _registered.pop((group, name), None)


def load_file(path: str) -> None:
    """Run a local Python file that calls `farcluss.register`. Raises PluginError with its path if it fails."""
    before = dict(_registered)
    try:
        file_module(path)
    except FAILURES as error:
        if isinstance(error, OSError) and error.filename == os.path.abspath(path):
            raise PluginError(f"--plugin {path} cannot be read: {error.strerror}.") from None
        raise PluginError(f"--plugin {path} fails: {type(error).__name__}: {short(error)}. Repair the file.") from error
    for key, entry in _registered.items():
        if entry is not before.get(key):
            _registered[key] = (entry[0], path)
