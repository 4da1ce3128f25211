"""Text files that people write, as editors save them, and what is no such file."""

import os

import pytest

from farcluss.errors import DataError, RecipeError
from farcluss.recipes.texts import read_text

TEXT = "größe,1\nb,2\n"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_text_is_the_same_from_any_editor(tmp_path, mark, newline):
    (tmp_path / "a.csv").write_bytes(mark + TEXT.replace("\n", newline).encode())
    assert read_text(tmp_path / "a.csv", DataError) == TEXT


@pytest.mark.parametrize("wrong", [DataError, RecipeError])
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (os.mkdir, "cannot be read: it is a folder, not a file."),
        (os.mkfifo, "cannot be read: it is a pipe, socket or device, not a file."),
        (lambda path: path.write_bytes("größe".encode("latin-1")), "is not UTF-8 text. Save it as UTF-8."),
        (lambda path: None, "does not exist. Look elsewhere."),
        (lambda path: path.symlink_to("nowhere"), "does not exist. Look elsewhere."),
        (lambda path: path.symlink_to(path.name), "cannot be read: Too many levels of symbolic links."),
    ],
    ids=["folder", "pipe", "Latin-1", "nothing", "broken link", "circle"],
)
def test_what_is_no_text_is_named(tmp_path, make, told, wrong):
    make(path := tmp_path / "a.csv")
    with pytest.raises(wrong) as error:
        read_text(path, wrong, "Look elsewhere.")
    assert str(error.value) == f"{path} {told}"
