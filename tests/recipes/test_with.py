"""What a recipe changes with an overlay: `[with.NAME]`."""

import pytest
from tiny_recipe import tiny_recipe

from farcluss import load_recipe
from farcluss.errors import RecipeError
from farcluss.recipes.reading import recipe_folder

OVERLAY = "[train]\nlr = 2.0\n"


@pytest.fixture
def load(tmp_path):
    """Loads a recipe that extends another, with the overlays `fast` and `slow`; both files end in a text."""

    def load(base, own="", overlays=("fast",), settings=()):
        for name in ("fast", "slow"):
            (tmp_path / f"{name}.toml").write_text(OVERLAY)
        (tmp_path / "base.toml").write_text(f"{tiny_recipe()}{base}")
        (tmp_path / "own.toml").write_text(f'extends = "base.toml"\nnetwork.name = "deeplabv3plus"\n{own}')
        return load_recipe(tmp_path / "own.toml", [tmp_path / f"{name}.toml" for name in overlays], settings)

    return load


@pytest.mark.parametrize(
    ("base", "own", "overlays", "settings", "lr"),
    [
        ("", "", ["fast"], [], 2.0),
        ("[with.fast]\ntrain.lr = 3.0", "", ["fast"], [], 3.0),
        ("[with.fast]\ntrain.lr = 3.0", "train.lr = 7.0", ["fast"], [], 3.0),
        ("[with.fast]\ntrain.lr = 3.0", "", ["slow"], [], 2.0),
        ("[with.fast]\ntrain.lr = 3.0", "", [], [], 0.05),
        ("[with.fast]\ntrain.lr = 3.0", "[with.fast]\ntrain.lr = 4.0", ["fast"], [], 4.0),
        ("[with.fast]\ntrain.lr = 3.0", "", ["fast", "slow"], [], 2.0),
        ("[with.fast]\ntrain.lr = 3.0", "", ["slow", "fast"], [], 3.0),
        ("[with.fast]\ntrain.lr = 3.0", "", ["fast"], ["train.lr=5.0"], 5.0),
    ],
    ids=[
        "nothing",
        "over the overlay",
        "over what it replaces",
        "another",
        "none",
        "own last",
        "before the next",
        "after the last",
        "--set",
    ],
)
def test_the_order_of_precedence(load, base, own, overlays, settings, lr):
    recipe = load(base, own, overlays, settings)
    assert recipe.train.lr == lr
    assert recipe.name == "-".join(["own", *overlays]) and recipe.train.batch == 4


@pytest.mark.parametrize("text", ["[with]\nfast = 3", "[[with]]\nlr = 3", "[with]\nfast = [{}]"])
@pytest.mark.parametrize("overlays", [[], ["fast"]])
def test_what_is_no_table_is_refused(load, tmp_path, text, overlays):
    for place, texts in (("base", (text, "")), ("own", ("", text))):
        with pytest.raises(RecipeError) as caught:
            load(*texts, overlays)
        wanted = "with: must be tables by the name of an overlay, such as [with.fixmatch]."
        assert str(caught.value) == f"{tmp_path / place}.toml: {wanted}"


def test_an_error_in_it_is_told_with_its_place(load, tmp_path):
    with pytest.raises(RecipeError) as caught:
        load("[with.fast]\ntrain.lr = -1.0\ntrain.stops = 3")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("2 errors") and all(f"{tmp_path / 'base.toml'}: with.fast" in line for line in lines[1:])
    assert "train.lr" in str(caught.value) and "train.stops" in str(caught.value)
    assert load("[with.fast]\ntrain.lr = -1.0", overlays=["slow"]).train.lr == 2.0


def test_the_recipe_itself_goes_before_what_its_base_says_of_an_overlay(load):
    """The overlay says nothing of the batch."""
    base = "[with.fast]\ntrain.batch = 16\ntrain.steps = 9"
    assert load(base).train.batch == 16
    recipe = load(base, "train.batch = 2")
    assert (recipe.train.batch, recipe.train.steps, recipe.train.lr) == (2, 9, 2.0)
    assert load(base, "train.batch = 2\n[with.fast]\ntrain.batch = 3").train.batch == 3


def test_a_name_that_is_nearly_a_method_is_refused(load, tmp_path):
    with pytest.raises(RecipeError) as caught:
        load("", "[with.unimatchh]\ntrain.lr = 1.0", [])
    wanted = "with.unimatchh: there is no such method; did you mean 'unimatch'?"
    assert str(caught.value) == f"{tmp_path / 'own.toml'}: {wanted}"
    assert load("", "[with.slow]\ntrain.lr = 1.0\n[with.my_own_settings]\ntrain.lr = 1.0").train.lr == 2.0


@pytest.mark.parametrize("second", ["cw_bass", "methods/cw_bass.toml"])
def test_two_methods_at_once_are_refused(monkeypatch, second):
    """By name or by a relative path."""
    monkeypatch.chdir(recipe_folder())
    with pytest.raises(
        RecipeError, match=r"^--with unimatch --with cw_bass: these are methods of their own\. Give one"
    ):
        load_recipe("quickstart", ["unimatch", second])
