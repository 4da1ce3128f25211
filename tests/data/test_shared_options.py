"""What layouts of plugins share: options written once, the root, tables of files."""

import inspect

import pytest

from farcluss.data.layouts import built_by, read_option, read_table, root_of
from farcluss.errors import DataError, RecipeError
from farcluss.plugins.signatures import describe_object
from farcluss.recipes.model import Data


def built(data, index, *, side: int = 8, name: str = "theirs"):
    """A data set.

    Args:
        side: of a window.
        name: of something.
    """
    return data, index, side, name


@built_by(built)
def layout(data, *, folder: str = "images", name: str = "mine"):
    """A layout.

    Args:
        folder: of images.
        name: of mine.
    """
    return folder, name


@built_by(built)
def plain(data):
    """A layout without options."""
    return "index"


class TestOptions:
    def test_each_gets_its_own(self):
        assert layout("data", folder="f", side=3) == ("data", ("f", "mine"), 3, "theirs")

    def test_one_that_both_have_goes_to_both(self):
        assert layout("data", name="n") == ("data", ("images", "n"), 8, "n")

    def test_signature_and_documentation_tell_of_all(self):
        assert list(inspect.signature(layout).parameters) == ["data", "folder", "name", "side"]
        options = describe_object(layout).options
        assert {name: option.default for name, option in options.items()} == {
            "folder": "images",
            "name": "mine",
            "side": 8,
        }
        assert "of a window" in options["side"].help

    def test_the_text_of_an_option_that_both_have_is_the_layouts(self):
        assert describe_object(layout).options["name"].help == "of mine."

    def test_a_layout_without_options_has_the_shared_ones(self):
        assert plain("data", side=2) == ("data", "index", 2, "theirs")
        assert "of a window" in describe_object(plain).options["side"].help


def test_a_root_that_is_none(tmp_path):
    assert root_of(Data(root=tmp_path)) == tmp_path
    with pytest.raises(DataError, match=r"none is not a folder. Set it with --set data.root"):
        root_of(Data(root=tmp_path / "none"))


class TestTables:
    def test_rows_have_their_lines(self, tmp_path):
        path = tmp_path / "table.csv"
        path.write_text("\ufeffimage,label\n a.tif , b.tif\n\nc.tif\n", encoding="utf-8")
        rows, columns = read_table(path)
        assert columns == ["image", "label"]
        assert rows == [(2, {"image": "a.tif", "label": "b.tif"}), (4, {"image": "c.tif", "label": ""})]

    def test_one_that_is_not_there(self, tmp_path):
        with pytest.raises(DataError, match=r"does not exist. Check data.root and data.layout.file"):
            read_table(tmp_path / "none.csv")


class TestFilesOfOptions:
    def take(self, root, name="facts.json"):
        return read_option(
            "facts", name, Data(root=root), lambda value: value["x"] + 1, what="table", command="make it"
        )

    def test_what_is_taken(self, tmp_path):
        (tmp_path / "facts.json").write_text('{"x": 2}')
        assert self.take(tmp_path) == 3 == self.take(tmp_path / "none", str(tmp_path / "facts.json"))

    def test_one_that_is_not_there(self, tmp_path):
        with pytest.raises(RecipeError, match=r"data\.layout\.facts: there is no file gone, neither here nor in "):
            self.take(tmp_path, "gone")

    def test_one_that_is_no_text(self, tmp_path):
        (tmp_path / "facts.json").write_bytes(b"\xff")
        with pytest.raises(RecipeError, match=r"facts\.json is not UTF-8 text\. Save it as UTF-8\."):
            self.take(tmp_path)

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"x": "2"}', "[" * 100_000])
    def test_one_that_is_something_else(self, tmp_path, text):
        (tmp_path / "facts.json").write_text(text)
        with pytest.raises(RecipeError, match=r"facts\.json is not a table\. Write it with `make it`\."):
            self.take(tmp_path)
