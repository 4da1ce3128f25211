"""`farcluss medical`: one command per file, imported when it is called."""

from importlib import import_module

import click

from farcluss.errors import suggestion

COMMANDS = {
    "check": "Show geometry, intensities and labels of every case of a recipe.",
    "evaluate": "Score predicted volumes against ground truths.",
    "fingerprint": "Measure spacings, shapes and intensities of a data set.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called: `--help` reads no volume library."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Names of the commands."""
        return sorted(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import one command."""
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"farcluss_medical.cli.{name}").command
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(context)])

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, suggesting a near name for one that does not exist."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            context.fail(f"There is no command {args[0]!r}{suggestion(args[0], COMMANDS)}")
        return super().resolve_command(context, args)


@click.command("medical", cls=LazyGroup, epilog="Example: farcluss medical evaluate labelsTs predictions -o scores")
def command() -> None:
    """Medical volumes: look at them before training, score them after. Research use only."""
