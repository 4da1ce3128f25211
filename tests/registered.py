"""Plugins that are known for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from farcluss.plugins import registry


@contextmanager
def registered(group: str, name: str, plugin: object) -> Iterator[None]:
    """Within it, and in processes that are forked there, the plugin goes by that name."""
    registry.register(group, name, plugin, "a test")
    try:
        yield
    finally:
        registry.unregister(group, name)
