"""`farcluss rs`: one command per file, imported when it is called."""

from farcluss.cli.commands import lazy_group

COMMANDS = {
    "evaluate": "Score predicted maps against labels.",
    "split": "Split scenes, or blocks of them, into sets that do not touch.",
    "stats": "Measure the bands of a recipe's scenes.",
}


@lazy_group(
    "rs", "farcluss_remote_sensing.cli", COMMANDS, epilog="Example: farcluss rs stats scenes.toml -o stats.json"
)
def command() -> None:
    """Remote sensing: measure bands and split scenes before training, score maps after."""
