"""`farcluss rs`: one command per file, imported when it is called."""

from importlib import import_module

import click

from farcluss.errors import suggestion

COMMANDS = {
    "evaluate": "Score predicted maps against labels.",
    "split": "Divide scenes or blocks of them into sets that do not touch.",
    "stats": "Measure the bands of a recipe's scenes.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called: `--help` opens no scene."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Names of the commands."""
        return sorted(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import one command."""
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"farcluss_remote_sensing.cli.{name}").command
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


@click.command("rs", cls=LazyGroup, epilog="Example: farcluss rs stats scenes.toml -o stats.json")
def command() -> None:
    """Remote sensing: measure bands and divide scenes before training, score maps after."""
