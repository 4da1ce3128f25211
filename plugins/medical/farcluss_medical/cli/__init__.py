"""`farcluss medical`. One command per file, imported when it is called."""

from importlib import import_module
from typing import Any

import click

COMMANDS = {
    "check": "Look at every case of a recipe as a radiologist's computer would: geometry, intensities, labels.",
    "fingerprint": "Measure the training cases of a recipe: spacing, crop, intensities.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Names of the commands."""
        return sorted(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import one command."""
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"farcluss_medical.cli.{name}").command
        return command

    def format_commands(self, context: click.Context, formatter: Any) -> None:
        """The list in `--help`, without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group("medical", cls=LazyGroup)
def command() -> None:
    """Volumes: what they are like, and what is wrong with them."""
