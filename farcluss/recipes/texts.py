"""Text files that people write: recipes, lists, tables."""

from pathlib import Path

from farcluss.errors import FarclussError, not_a_file


def read_text(path: Path, wrong: type[FarclussError], missing: str = "Check its path.") -> str:
    """The text of a UTF-8 file, with or without a byte order mark; every line ends in a newline character.

    Raises:
        FarclussError: a `wrong` that says why it cannot be read; of a file that does not exist, with the advice
            `missing`.
    """
    if other := not_a_file(path):
        raise wrong(f"{path} cannot be read: it is {other}, not a file.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise wrong(f"{path} does not exist. {missing}") from None
    except UnicodeDecodeError:
        raise wrong(f"{path} is not UTF-8 text. Save it as UTF-8.") from None
    except OSError as error:
        raise wrong(f"{path} cannot be read: {error.strerror}.") from None
