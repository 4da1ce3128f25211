"""Groups of commands that are imported when they are called, for the command line itself and for plugins."""

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import click

from farcluss.errors import suggestion


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called: its `--help` imports none of them.

    Args:
        listed: what each command does, by name; called when the list is needed.
        load: imports a command; None for a name that it does not know.
        options: of `click.Group`.
    """

    def __init__(
        self,
        *,
        listed: Callable[[], Mapping[str, str]],
        load: Callable[[str], click.Command | None],
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.listed, self.load = listed, load

    def list_commands(self, context: click.Context) -> list[str]:
        """Names of the commands."""
        return sorted(self.listed())

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import one command; None for an unknown name."""
        return self.load(name)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(self.listed().items()))

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        """Find the command, suggesting a near name for one that does not exist."""
        name = args[0]
        if not (context.resilient_parsing or name.startswith("-")) and self.load(name) is None:
            context.fail(f"There is no command {name!r}{suggestion(name, self.list_commands(context))}")
        return super().resolve_command(context, args)


def lazy_group(
    name: str, package: str, commands: Mapping[str, str], *, epilog: str | None = None
) -> Callable[[Callable[..., Any]], LazyGroup]:
    """Make a group of a function, whose docstring is the group's help: the entry point of a plugin with sub-commands.

    Args:
        name: of the group, as in the entry point.
        package: the command `x` is called `command` in the module `x` of this package.
        commands: what each command does, by name.
        epilog: last line of the help, such as an example.
    """
    decorate = click.command(
        name, cls=LazyGroup, listed=lambda: commands, load=partial(_load, package, commands), epilog=epilog
    )
    return decorate


def _load(package: str, commands: Mapping[str, str], name: str) -> click.Command | None:
    if name not in commands:
        return None
    command: click.Command = import_module(f"{package}.{name}").command
    return command
