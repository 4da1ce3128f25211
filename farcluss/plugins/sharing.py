"""Options that several plugins share, written down once."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from farcluss.plugins.signatures import join_docs

Made = TypeVar("Made", bound=Callable[..., Any])


def with_options_of(shared: Callable[..., Any]) -> Callable[[Made], Made]:
    """Say of a plugin that takes `**options` that they are those of `shared`, to which it passes them on.

    Its signature and documentation then tell of both, for recipes and for `farcluss plugins show`. What the plugin
    names itself is its own. Written as `@with_options_of(NAME)`, it is understood from the source, without any import.
    """

    def decorate(plugin: Made) -> Made:
        announce(plugin, plugin, shared)
        return plugin

    return decorate


def announce(plugin: Any, own: Callable[..., Any], shared: Callable[..., Any]) -> None:
    """Give a plugin the signature and documentation of `own`, with those options of `shared` that it has not itself."""
    mine, theirs = inspect.signature(own), inspect.signature(shared).parameters.values()
    kept = {p.name: p for p in mine.parameters.values() if p.kind is not p.VAR_KEYWORD}
    further = [p for p in theirs if p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) and p.name not in kept]
    plugin.__signature__ = mine.replace(parameters=[*kept.values(), *further])
    plugin.__doc__ = join_docs(own.__doc__ or "", shared.__doc__ or "", [p.name for p in further])
