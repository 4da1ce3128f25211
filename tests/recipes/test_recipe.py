"""The recipe reader: what is merged over what, what is refused, and who is named for it."""

import tomllib
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from farcluss.errors import RecipeError
from farcluss.plugins import registry
from farcluss.recipes.reading import find_recipe, load_recipe, merge_settings, recipe_folder, validate
from farcluss.runs.folder import to_toml

ENTRY_POINTS = cache(registry.entry_points)
SHIPPED = sorted(path.stem for path in recipe_folder().glob("*.toml"))
STEPS = "[train]\nsteps = 1\n"


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def load(write):
    """Load a text as recipe `mine.toml`."""

    def load(text, *settings, overlays=()):
        return load_recipe(write("mine", text), overlays, settings)

    return load


@pytest.fixture
def refused(load):
    """The lines of the report on a text, without the heading."""

    def refused(text, *settings, overlays=()):
        with pytest.raises(RecipeError) as caught:
            load(text, *settings, overlays=overlays)
        heading, *lines = str(caught.value).splitlines()
        plural = "s" if len(lines) > 1 else ""
        assert heading.startswith(f"{len(lines)} error{plural} in recipe ") and heading.endswith("mine.toml:")
        return [line.strip() for line in lines]

    return refused


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("text", "key", "near"),
        [
            ("lables = 1", "lables", None),
            ("nam = 'x'", "nam", "name"),
            ("[dat]\nroot = 'x'", "dat", "data"),
            ("[data]\nlabelled = 'x'", "data.labelled", "labeled"),
            ("[stages]\nwieght = 'uniform'", "stages.wieght", "weight"),
            ("[loss]\nsupervsed = 'ohem'", "loss.supervsed", "supervised"),
            ("[eval]\nwindw = 4", "eval.windw", "window"),
            ("[train.sub]\nx = 1", "train.sub", None),
        ],
    )
    def test_are_refused_with_a_suggestion(self, refused, text, key, near):
        text = f"{text}\n{'' if 'train' in text else STEPS}"
        settings = ["train.steps=1"] if "train" in key else []
        (line,) = refused(text, *settings)
        assert f"mine.toml: unknown key {key}" in line
        assert line.endswith(f"; did you mean {near!r}?" if near else ".")

    @pytest.mark.parametrize(
        ("text", "key", "near"),
        [
            ("[data.layout]\nname = 'shapes'\ntran = 5", "data.layout.tran", "train"),
            ("[network]\nencodr = 'x'", "network.encodr", "encoder"),
            ("[stages.weight]\nname = 'entropy'\nfom = 'linear'", "stages.weight.fom", "form"),
            ("[stages]\naugment = { bluur = 0.5 }", "stages.augment.bluur", "blur"),
        ],
    )
    def test_options_of_plugins_too(self, refused, text, key, near):
        (line,) = refused(f"{text}\n{STEPS}")
        assert f"mine.toml: {key}: " in line
        assert line.endswith(f"has no such option; did you mean {near!r}?")

    @pytest.mark.parametrize(
        ("text", "key", "near"),
        [
            ("[stages]\nweight = 'entropi'", "stages.weight", "entropy"),
            ("[stages]\npseudo_label = { name = 'fuzy', top_k = 3 }", "stages.pseudo_label", "fuzzy"),
            ("[network]\nname = 'deeplabv3'", "network", "deeplabv3plus"),
            ("[data]\nlayout = 'shape'", "data.layout", "shapes"),
        ],
    )
    def test_names_of_plugins_too(self, refused, text, key, near):
        (line,) = refused(f"{text}\n{STEPS}")
        assert f"mine.toml: {key}: there is no " in line
        assert f"did you mean {near!r}? Known: " in line


class TestTypesAndRanges:
    @pytest.mark.parametrize(
        ("setting", "expected"),
        [
            ("data.crop=big", "int >= 1 or list of int >= 1, not 'big'"),
            ("data.crop=[0, 5]", "int >= 1 or list of int >= 1, not [0, 5]"),
            ("data.flip=1.5", "float in [0, 1], not 1.5"),
            ("data.scale=[1]", "[float in [0.01, 100], float in [0.01, 100]], not [1]"),
            ("data.std=[1, 0, 1]", "float > 0, list of float > 0 or unset, not [1, 0, 1]"),
            ("data.std=0", "float > 0, list of float > 0 or unset, not 0"),
            ("data.turns=[0, 1]", "list of [int, int] or unset, not [0, 1]"),
            ("data.channels=0", "int in [1, 65536] or unset, not 0"),
            ("data.workers=-1", "int >= 0, not -1"),
            ("network.pretrained=5", "bool or str, not 5"),
            ("stages.weight=5", "a table, not 5"),
            ("loss.supervised=dice", '"cross-entropy", "ohem" or "dice-cross-entropy", not \'dice\''),
            ("loss.contrastive=-0.1", "float >= 0, not -0.1"),
            ("train=5", "a table, not 5"),
            ("train.lr=fast", "float > 0, not 'fast'"),
            ("train.lr=inf", "float > 0, not inf"),
            ("train.lr=true", "float > 0, not True"),
            ("data.scale=[true, 2]", "[float in [0.01, 100], float in [0.01, 100]], not [True, 2]"),
            ("train.batch=1.5", "int in [1, 65536], not 1.5"),
            ("train.optimizer=adam", '"sgd" or "adamw", not \'adam\''),
            ('train.trackers=["csv"]', 'list of "tensorboard" or "wandb", not [\'csv\']'),
            ("eval.scales=[]", "list of float in [0.1, 10], not []"),
        ],
    )
    def test_are_named(self, refused, setting, expected):
        (line,) = refused(STEPS, setting)
        assert line == f"--set {setting}: {setting.partition('=')[0]}: must be {expected}."

    def test_bounds_in_the_wrong_order(self, refused):
        (line,) = refused(STEPS, "data.scale=[2.0, 1.0]")
        assert line == "--set data.scale=[2.0, 1.0]: data.scale: the lower bound comes first."

    def test_of_options(self, refused):
        (line,) = refused(f"[stages.pseudo_label]\nname = 'fuzzy'\ntop_k = 0\n{STEPS}")
        assert "mine.toml: stages.pseudo_label.top_k: " in line and line.endswith("not 0.")

    def test_an_entry_of_a_table_is_named(self, refused):
        lines = refused(f"[data.classes]\nsky = 0\nroad = 1.5\n{STEPS}")
        assert any('mine.toml: data.classes.road: must be int, color "#rrggbb"' in line for line in lines)

    @pytest.mark.parametrize(
        ("settings", "mean", "std"),
        [
            ([], [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            (["data.channels=2"], [0.5, 0.5], [0.25, 0.25]),
            (["data.channels=2", "data.mean=0.0", "data.std=1"], [0.0, 0.0], [1.0, 1.0]),
            (["data.mean=0", "data.std=[1, 2, 3]"], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]),
        ],
    )
    def test_one_number_is_for_all_channels(self, write, settings, mean, std):
        data = load_recipe(write("mine", STEPS), settings=settings).data
        assert (data.channel_mean, data.channel_std) == (mean, std)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[data]\ncrop = 32", "train: set steps or epochs."),
            ("[train]\nlr = 1", "train: set steps or epochs."),
            ("[train]\nsteps = 3\nepochs = 2", "train: set either steps or epochs, not both."),
            (f"[data]\nchannels = 3\nmean = [0.5]\n{STEPS}", "data: mean has 1 values for 3 channels."),
        ],
    )
    def test_rules_between_keys(self, refused, text, said):
        (line,) = refused(text)
        assert line.endswith(f"mine.toml: {said}")


@pytest.mark.parametrize(
    ("base", "own", "settings", "found"),
    [
        ("epochs = 5", "lr = 0.1", ["train.steps=7"], (7, None)),
        ("steps = 5", "lr = 0.1", ["train.epochs=7"], (None, 7)),
        ("epochs = 5", "steps = 6", [], (6, None)),
        ("epochs = 5", "lr = 0.1", ["train.steps=7", "train.epochs=8"], (None, 8)),
    ],
)
def test_of_steps_and_epochs_the_later_one_counts(write, base, own, settings, found):
    write("base", f"[train]\n{base}\n")
    train = load_recipe(write("mine", f"extends = 'base.toml'\n[train]\n{own}\n"), settings=settings).train
    assert (train.steps, train.epochs) == found


def test_one_report_names_every_error_and_who_set_it(write, refused):
    write("base", "[train]\nstpes = 5\nsteps = 3\n[stages]\nweight = { name = 'entropy', fom = 'linear' }\n")
    over = write("over", "[eval]\nmode = 'slide'\n")
    text = "extends = 'base.toml'\n[data]\nlabelled = 'x'\n[network]\nencodr = 'x'\n"
    lines = refused(text, "train.batch=0", overlays=[over])
    folder = over.parent
    assert {line.split(": ")[0] for line in lines} == {
        f"{folder}/mine.toml", f"{folder}/base.toml", f"{folder}/over.toml", "--set train.batch=0"
    }  # fmt: skip
    keys = {line.split(": ")[1].removeprefix("unknown key ").partition(";")[0] for line in lines}
    assert keys == {"data.labelled", "train.stpes", "stages.weight.fom", "network.encodr", "eval.mode", "train.batch"}
    assert len(lines) == 6


class TestExtends:
    def test_the_recipe_goes_over_its_base(self, write, load):
        write("base", "[train]\nsteps = 3\nlr = 0.5\n[data]\ncrop = 32\n")
        recipe = load("extends = 'base.toml'\n[train]\nlr = 0.25\n")
        assert (recipe.train.steps, recipe.train.lr, recipe.data.crop, recipe.name) == (3, 0.25, 32, "mine")

    @pytest.mark.parametrize("base", ["'gone.toml'", "5"])
    def test_a_missing_base(self, load, base):
        with pytest.raises(
            RecipeError, match=r"mine.toml: extends: there is no file (gone.toml|5) in .*\. Give the path"
        ):
            load(f"extends = {base}\n{STEPS}")

    def test_one_level_only(self, write, load):
        write("ground", STEPS)
        write("base", "extends = 'ground.toml'")
        with pytest.raises(RecipeError, match=r"base.toml extends another file; only one level is allowed"):
            load("extends = 'base.toml'")


class TestOverlays:
    def test_a_part_of_another_name_is_replaced_whole(self, write, load):
        over = write("over", "[stages]\nweight = { name = 'threshold', threshold = 0.8 }\n")
        text = f"[stages]\nweight = {{ name = 'entropy', form = 'power', gamma = 0.5 }}\n{STEPS}"
        assert load(text, overlays=[over]).stages.weight.options == {"threshold": 0.8}

    @pytest.mark.parametrize("part", ["{ name = 'entropy', gamma = 0.2 }", "{ gamma = 0.2 }"])
    def test_a_part_of_the_same_name_is_merged(self, write, load, part):
        over = write("over", f"[stages]\nweight = {part}\n")
        weight = load(
            f"[stages]\nweight = {{ name = 'entropy', form = 'power', gamma = 0.5 }}\n{STEPS}", overlays=[over]
        )
        assert (weight.stages.weight.name, weight.stages.weight.options) == ("entropy", {"form": "power", "gamma": 0.2})

    def test_the_short_form_says_the_same(self, write, load):
        over = write("over", "[stages]\nweight = 'entropy'\n")
        text = f"[stages]\nweight = {{ name = 'entropy', form = 'power' }}\n{STEPS}"
        assert load(text, overlays=[over]).stages.weight.options == {"form": "power"}

    def test_later_ones_go_over_earlier_ones_and_name_the_run(self, write, load):
        first, second = write("first", "[train]\nlr = 1\nbatch = 2\n"), write("second", "[train]\nlr = 2\n")
        recipe = load(STEPS, overlays=[first, second])
        assert (recipe.train.lr, recipe.train.batch, recipe.name) == (2, 2, "mine-first-second")

    def test_names_in_files_are_used(self, write, load):
        over = write("over", "name = 'b'\n")
        assert load(f"name = 'a'\n{STEPS}", overlays=[over]).name == "a-b"
        assert load(f"name = 'a'\n{STEPS}", "name=c", overlays=[over]).name == "c"

    def test_shipped_methods_by_name(self, load):
        assert load(STEPS, overlays=["fixmatch"]).name == "mine-fixmatch"
        with pytest.raises(RecipeError, match="'fixmach'; did you mean 'fixmatch'"):
            load(STEPS, overlays=["fixmach"])


class TestSettings:
    @pytest.mark.parametrize(
        ("setting", "section", "key", "value"),
        [
            ("train.lr=1e-2", "train", "lr", 0.01),
            ("train.epochs = 2", "train", "epochs", 2),
            ("train.decay_norms=false", "train", "decay_norms", False),
            ("data.scale=[0.5, 1.0]", "data", "scale", (0.5, 1.0)),
            ('data.labeled="1/8"', "data", "labeled", "1/8"),
            ("data.labeled=1/8", "data", "labeled", "1/8"),
            ("data.labeled=a list = one.txt", "data", "labeled", "a list = one.txt"),
            ("data.root=/some/where", "data", "root", Path("/some/where")),
            ("data.classes={ a = 1, b = [2, 3] }", "data", "classes", {"a": 1, "b": [2, 3]}),
            ("data.unlabeled=", "data", "unlabeled", ""),
        ],
    )
    def test_are_literals_or_else_texts(self, load, setting, section, key, value):
        text = STEPS if "epochs" not in setting else ""
        assert getattr(getattr(load(text, setting), section), key) == value

    @pytest.mark.parametrize(
        ("setting", "part", "name", "options"),
        [
            ("stages.weight=uniform", "weight", "uniform", {}),
            ("stages.weight.name=uniform", "weight", "uniform", {}),
            ("stages.weight.gamma=0.25", "weight", "entropy", {"form": "power", "gamma": 0.25}),
            ("stages.augment.blur_p=0.5", "augment", "photometric", {"blur_p": 0.5}),
            ("stages.mix=cutmix", "mix", "cutmix", {}),
            ('stages.augment={ name = "identity" }', "augment", "identity", {}),
        ],
    )
    def test_of_parts(self, load, setting, part, name, options):
        text = f"[stages]\nweight = {{ name = 'entropy', form = 'power' }}\n{STEPS}"
        chosen = getattr(load(text, setting).stages, part)
        assert (chosen.name, chosen.options) == (name, options)

    @pytest.mark.parametrize("layout", ["'shapes'", "{ name = 'shapes', val = 7 }"])
    def test_of_a_layout(self, load, layout):
        chosen = load(f"[data]\nlayout = {layout}\n{STEPS}", "data.layout.train=5").data.layout
        assert (chosen.name, chosen.options["train"], chosen.options.get("val", 7)) == ("shapes", 5, 7)

    def test_a_default_part_takes_options(self, load):
        assert load(STEPS, "data.layout.masks=labels").data.layout.options == {"masks": "labels"}
        assert load(STEPS, "network.encoder=resnet18").network.name == "deeplabv3plus"

    @pytest.mark.parametrize("setting", ["train.lr", "=5", "train.=5", ".lr=5", ""])
    def test_bad_ones_show_the_form(self, load, setting):
        with pytest.raises(RecipeError, match=r"^--set .*: write it as key.path=VALUE, .* --set train.lr=0.01\.$"):
            load(STEPS, setting)

    def test_the_last_one_counts(self, load):
        assert load(STEPS, "train.lr=1", "train.lr=2").train.lr == 2

    def test_as_one_table(self):
        given = merge_settings(["data.val=test", "data.layout.val=1", "eval.flip=true"])
        assert given == {"data": {"val": "test", "layout": {"val": 1}}, "eval": {"flip": True}}

    def test_over_a_table_of_plain_values(self, load):
        """As for `farcluss eval --set`: options go to the part that the recipe names, not to the default one."""
        table = load(f"[data]\nlayout = 'shapes'\n{STEPS}").model_dump(mode="json")
        layout = validate(table, merge_settings(["data.layout.val=1"])).data.layout
        assert (layout.name, layout.options) == ("shapes", {"val": 1})
        with pytest.raises(RecipeError, match=r"--set: unknown key eval.flp; did you mean 'flip'\?"):
            validate(table, {"eval": {"flp": True}})


class TestFiles:
    @pytest.mark.parametrize("text", ["[train\n", "train.steps = \n", "a = 1\na = 2\n"])
    def test_a_syntax_error_has_file_and_line(self, load, text):
        with pytest.raises(RecipeError, match=r"mine.toml is not valid TOML: .*line [12], column \d+"):
            load(text)

    def test_a_file_that_is_no_text(self, tmp_path):
        path = tmp_path / "binary.toml"
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(RecipeError, match=r"binary.toml is not UTF-8 text\. Save it as UTF-8\."):
            load_recipe(path)

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    def test_a_byte_order_mark_is_no_text(self, tmp_path, encoding):
        path = tmp_path / "mark.toml"
        path.write_text(STEPS, encoding=encoding)
        assert load_recipe(path).name == "mark"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("x = " + "9" * 5000, "has a number with too many digits"),
            ("x = 0x" + "f" * 5000, "x: has more than 64 bits"),
            ("[data.classes]\na = 99999999999999999999", "data.classes.a: has more than 64 bits"),
            ("data.ignore_index = [1, -9999999999999999999]", "data.ignore_index: has more than 64 bits"),
            ("x = " + "[" * 5000 + "]" * 5000, "is nested too deeply"),
            ("x = " + "{a=" * 5000 + "1" + "}" * 5000, "is nested too deeply"),
            (".".join("a" * 5000) + " = 1", "is nested too deeply"),
            ('data.root = "a\\u0000b"', "data.root: holds a NUL character"),
            ('data.classes = ["a\\u0000b"]', "data.classes: holds a NUL character"),
            ("data.crop = 'x" + "y" * 5000 + "'", "data.crop: must be int >= 1"),
            ('"[train]" = 1', "unknown key [train]; did you mean 'train'?"),
        ],
    )
    def test_what_no_file_or_array_can_hold(self, tmp_path, text, said):
        """In a file as in `--set`: one message of bounded length, which names the place."""
        path, plain = tmp_path / "odd.toml", tmp_path / "plain.toml"
        path.write_text(f"{text}\n{STEPS}" if text[0] != "[" else f"{STEPS}\n{text}")
        plain.write_text(STEPS)
        setting = text.strip("[").replace("]\n", ".").replace(" = ", "=", 1).replace('"[train]"', "[train]")
        for source, settings, place in ((path, (), "odd.toml"), (plain, (setting,), "--set ")):
            with pytest.raises(RecipeError) as caught:
                load_recipe(source, settings=settings)
            assert said in str(caught.value) and place in str(caught.value) and len(str(caught.value)) < 1000

    def test_a_setting_sets_one_key(self, load):
        with pytest.raises(RecipeError, match=r"sets several keys\. Give each key its own --set\."):
            load(STEPS, "train.lr=1\ntrain.steps=99")

    def test_an_empty_name_is_the_default(self, load):
        assert load(STEPS, "name=").name == load(STEPS).name

    @pytest.mark.parametrize(("name", "near"), [("quickstrt", "quickstart"), ("camvid_1_9", "camvid_1_8")])
    def test_a_missing_one_with_a_suggestion(self, name, near):
        with pytest.raises(RecipeError) as caught:
            find_recipe(name)
        assert f"{name!r}; did you mean {near!r}?" in str(caught.value)
        assert "farcluss recipes list" in str(caught.value)


@pytest.mark.parametrize(("name", "overlays"), [*((name, ()) for name in SHIPPED), ("quickstart", ("unimatch",))])
def test_a_resolved_recipe_reads_back_equal(name, overlays, tmp_path, monkeypatch):
    monkeypatch.setattr(
        registry, "entry_points", ENTRY_POINTS
    )  # reading them anew for every part takes most of the time
    recipe = load_recipe(name, overlays)
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe.model_dump(mode="json")))
    assert load_recipe(path) == recipe


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.lists(st.dictionaries(TEXTS, SCALARS, max_size=2), max_size=2)


TABLES = st.recursive(
    st.dictionaries(TEXTS, VALUES, max_size=3), lambda inner: st.dictionaries(TEXTS, VALUES | inner, max_size=3)
)


@given(TABLES)
@example({"\x7f": "\x7f", "\U00010000": "\u00e9"})
def test_any_table_survives_toml(table):
    """Empty tables are dropped: a recipe has nothing to say with one."""

    def pruned(value):
        if not isinstance(value, dict):
            return value
        inner = {key: pruned(item) for key, item in value.items()}
        return {key: item for key, item in inner.items() if item != {}}

    assert tomllib.loads(to_toml(table)) == pruned(table)
