"""`farcluss medical`: one command per file, imported when it is called."""

from farcluss.cli.commands import lazy_group

COMMANDS = {
    "check": "Show geometry, intensities and labels of every case of a recipe.",
    "evaluate": "Score predicted volumes against ground truths.",
    "folds": "Divide the labeled cases into folds for cross-validation, by patient.",
    "fingerprint": "Measure spacings, shapes and intensities of a data set.",
}


@lazy_group(
    "medical",
    "farcluss_medical.cli",
    COMMANDS,
    epilog="Example: farcluss medical evaluate labelsTs predictions -o scores",
)
def command() -> None:
    """Medical volumes: check them before training, score predictions after. Research use only."""
