"""Entry points: found, described, built and refused, always with the name of whoever is to blame."""

import re
import sys
from pathlib import Path
from textwrap import dedent
from unittest.mock import Mock

import pytest
import torch
from plugin_site import STAGE, distribute
from registered import registered

import farcluss.plugins.options
import farcluss.testing
from farcluss.errors import DataError, PluginError
from farcluss.plugins import registry
from farcluss.plugins.signatures import REQUIRED, argument_docs, describe_object, describe_source, readable
from farcluss.recipes.model import Data
from farcluss.stages.base import Contrast, PixelWeight
from farcluss.testing.values import random_labels

ROOT = Path(__file__).parents[2]
BUILT_IN = [plugin for plugin in registry.find() if plugin.distribution == "farcluss" and plugin.entry_point]
by_place = pytest.mark.parametrize("plugin", BUILT_IN, ids=lambda p: f"{p.group}/{p.name}")


class TestFind:
    def test_third_party_beside_built_in(self, site):
        distribute(site, "fake-half", {"weight/half": "fake_half:Half"}, {"fake_half": STAGE})
        found = {plugin.name: plugin for plugin in registry.find("weight")}
        assert {"entropy", "threshold", "uniform", "half"} <= set(found)
        assert (found["half"].distribution, found["half"].version) == ("fake-half", "1.0")

    def test_every_group_at_once_is_the_sum_of_the_groups(self):
        assert [*registry.find()] == [plugin for group in registry.GROUPS for plugin in registry.find(group)]

    def test_empty_switch_hides_third_party(self, site, monkeypatch):
        distribute(site, "fake-half", {"weight/half": "fake_half:Half"}, {"fake_half": STAGE})
        monkeypatch.setenv("FARCLUSS_PLUGINS", "")
        assert {plugin.distribution for plugin in registry.find()} == {"farcluss"}
        with pytest.raises(PluginError, match="no weight plugin 'half'"):
            registry.get("weight", "half")

    def test_two_distributions_with_one_name(self, site):
        distribute(site, "fake-one", {"weight/half": "fake_one:Half"}, {"fake_one": STAGE})
        distribute(site, "fake-two", {"weight/half": "fake_two:Half"}, {"fake_two": STAGE}, version="2.0")
        with pytest.raises(PluginError, match=r"called weight/half: from fake-one 1\.0 and fake-two 2\.0"):
            registry.get("weight", "half")
        assert registry.get("weight", "entropy").distribution == "farcluss"

    def test_a_built_in_name_cannot_be_taken_over(self, site):
        distribute(site, "fake-half", {"weight/entropy": "fake_half:Half"}, {"fake_half": STAGE})
        with pytest.raises(PluginError, match=r"fake-half 1\.0 and farcluss|farcluss .* and fake-half"):
            registry.get("weight", "entropy")

    def test_the_same_name_in_two_groups_is_no_collision(self):
        assert registry.get("weight", "uniform") != registry.get("rebalance", "uniform")

    def test_missing_name_suggests_a_near_one(self):
        with pytest.raises(PluginError, match=r"no weight plugin 'entorpy'; did you mean 'entropy'\? Known: .*entropy"):
            registry.get("weight", "entorpy")


class TestBroken:
    @pytest.mark.parametrize(
        ("source", "error"),
        [
            ("raise RuntimeError('boom')", "RuntimeError: boom"),
            ("import no_such_library", "No module named 'no_such_library'"),
            ("def oops(:", "SyntaxError"),
            ("x = 1", "Half"),
        ],
    )
    def test_load_names_the_distribution(self, site, source, error):
        distribute(site, "fake-broken", {"weight/half": "fake_broken:Half"}, {"fake_broken": source})
        with pytest.raises(PluginError, match=r"weight/half of fake-broken 1\.0") as caught:
            registry.build("weight", "half", {})
        assert error in str(caught.value)
        assert "uninstall fake-broken" in str(caught.value)
        assert registry.get("weight", "entropy").load()

    def test_a_recipe_gets_it_as_one_of_its_errors(self, site):
        distribute(site, "fake-broken", {"weight/half": "fake_broken:Half"}, {})
        ((option, text),) = registry.problems("weight", "half", {})
        assert option == "" and "fake-broken" in text and "fake_broken" in text

    @pytest.mark.parametrize(
        "target", ["gone:Half", "fake_one:Gone", "fake_one.deeper:Half", "fake_one:Half.more", "1:2"]
    )
    def test_no_target_that_cannot_be_imported_passes(self, site, target):
        distribute(site, "fake-broken", {"weight/half": target}, {"fake_one": STAGE, "deeper": STAGE})
        with pytest.raises(PluginError, match="fake-broken"):
            registry.get("weight", "half").load()

    def test_constructor_that_fails(self):
        def fails(data, *, size: int = 1):
            raise ZeroDivisionError("no")

        with registered("dataset", "fails", fails), pytest.raises(PluginError) as caught:
            registry.build("dataset", "fails", {}, Data())
        assert "fails of a test cannot be built with size = 1:\nZeroDivisionError: no." in str(caught.value)
        assert "Repair" not in str(caught.value)

    def test_only_what_cannot_be_called_is_to_be_repaired(self):
        with registered("dataset", "nothing", lambda: None):
            with pytest.raises(PluginError, match=r"nothing of a test cannot be called: .*\nRepair a test\."):
                registry.build("dataset", "nothing", {}, Data())

    def test_errors_for_the_user_pass_through(self):
        def refuses(data):
            raise DataError("no such folder")

        with registered("dataset", "refuses", refuses):
            with pytest.raises(DataError, match=r"^no such folder$"):
                registry.build("dataset", "refuses", {}, Data())


class TestBuild:
    def test_options_reach_the_stage(self):
        stage = registry.build("weight", "entropy", {"form": "power", "gamma": 2}, kind=PixelWeight)
        assert (stage.form, stage.gamma, stage.high_entropy) == ("power", 2.0, 0.5)

    def test_context_is_positional(self):
        dataset = registry.build("dataset", "shapes", {"train": 3}, Data())
        assert len(dataset.items("train")) == 3

    @pytest.mark.parametrize(
        ("options", "option", "text"),
        [
            ({"gama": 2}, "gama", "weight 'entropy' has no such option; did you mean 'gamma'?"),
            ({"gamma": 0}, "gamma", "Input should be greater than 0, not 0."),
            ({"gamma": "big"}, "gamma", "not 'big'."),
            ({"form": "cubic"}, "form", "Input should be 'linear', 'power' or 'exp', not 'cubic'."),
        ],
    )
    def test_wrong_options(self, options, option, text):
        ((found, message),) = registry.problems("weight", "entropy", options)
        assert found == option and text in message
        with pytest.raises(PluginError, match=f"^weight/entropy: {option}: "):
            registry.build("weight", "entropy", options)

    def test_every_wrong_option_is_told(self):
        assert [option for option, _ in registry.problems("weight", "entropy", {"gamma": 0, "beta": -1, "x": 1})] == [
            "gamma",
            "beta",
            "x",
        ]

    def test_missing_option(self, site):
        distribute(site, "fake-half", {"weight/half": "fake_half:Half"}, {"fake_half": STAGE})
        assert registry.problems("weight", "half", {}) == [("required", "weight 'half' needs this option.")]
        assert registry.build("weight", "half", {"required": 1}, kind=PixelWeight).share == 0.5

    def test_wrong_kind(self):
        with pytest.raises(PluginError, match="weight/uniform of farcluss returns a Uniform, not a Contrast"):
            registry.build("weight", "uniform", {}, kind=Contrast)

    def test_a_stage_without_constructor_takes_no_options(self):
        class Plain(PixelWeight):
            """Plain."""

        with registered("weight", "plain", Plain):
            assert [option for option, _ in registry.problems("weight", "plain", {"typo": 1})] == ["typo"]


class TestLocalFile:
    def test_registers_for_this_process(self, tmp_path):
        file = tmp_path / "mine.py"
        file.write_text(dedent(STAGE) + "\nfrom farcluss import register\nregister('weight', 'local-half', Half)\n")
        registry.load_file(str(file))
        try:
            assert registry.build("weight", "local-half", {"required": 1}).share == 0.5
            assert registry.get("weight", "local-half").distribution == str(file)
        finally:
            registry.unregister("weight", "local-half")
        with pytest.raises(PluginError, match="no weight plugin 'local-half'"):
            registry.get("weight", "local-half")

    def test_a_file_that_may_not_be_read_is_named(self):
        error = PermissionError(13, "Permission denied", "/data/images")
        with registered("dataset", "mine", Mock(side_effect=error)):
            with pytest.raises(PluginError) as caught:
                registry.build("dataset", "mine", {})
        assert str(caught.value) == "dataset/mine: /data/images cannot be used: Permission denied."

    def test_failure_names_the_file(self, tmp_path):
        file = tmp_path / "mine.py"
        file.write_text("1 / 0")
        with pytest.raises(PluginError, match=r"mine\.py fails: ZeroDivisionError"):
            registry.load_file(str(file))
        file.write_text("import sys; sys.exit(0)")
        with pytest.raises(PluginError, match=r"mine\.py fails: SystemExit: 0"):
            registry.load_file(str(file))
        with pytest.raises(PluginError, match=r"gone\.py cannot be read: No such file"):
            registry.load_file(str(tmp_path / "gone.py"))

    def test_unknown_group(self):
        with pytest.raises(PluginError, match="no plugin group 'wieght'; the groups are augment"):
            registry.register("wieght", "half", object)


class TestDescriptions:
    @by_place
    def test_built_in_plugins_document_every_option(self, plugin):
        description = plugin.describe()
        assert description.summary
        for name, option in description.options.items():
            assert option.help, f"{plugin.group}/{plugin.name}: {name} has no text in an Args: block"
            assert option.default is not REQUIRED, f"{plugin.group}/{plugin.name}: {name} has no default"
        defaults = {name: option.default for name, option in description.options.items()}
        assert description.check("plugin", defaults) == (defaults, [])

    @by_place
    def test_source_says_what_an_import_says(self, plugin):
        """The oracle of the source reader is inspect."""
        found = describe_source(plugin.entry_point.module, plugin.entry_point.attr)
        wanted = describe_object(plugin.load())
        assert found is not None, "not readable without an import"
        assert (found.doc, found.open, list(found.options)) == (wanted.doc, wanted.open, list(wanted.options))
        for name, option in found.options.items():
            assert (option.default, option.help) == (wanted.options[name].default, wanted.options[name].help)
            assert readable(option.annotation) == readable(wanted.options[name].annotation)
        assert plugin.peek() == wanted.summary

    @pytest.mark.parametrize(
        "source",
        [
            "class Half(Base): pass",  # options may be inherited
            "@decorated\nclass Half: pass",  # or made by a decorator
            "def Half(*, x: float = DEFAULT): pass",
            "def Half(*, x: Unknown = 1): pass",
            "Share = int\ndef Half(*, x: Share = 1): pass",  # not the Share of farcluss.plugins.options
            "from elsewhere import Half",
            "from elsewhere import *",
            "def Half(): pass\nHalf = wrap(Half)",
            "if x:\n    def Half(): pass\nelse:\n    def Half(): pass",
            "def __getattr__(name): pass",
        ],
    )
    def test_what_source_cannot_tell(self, site, source):
        distribute(site, "fake-half", {"weight/half": "fake_half:Half"}, {"fake_half": source})
        assert describe_source("fake_half", "Half") is None

    def test_what_source_cannot_tell_is_imported(self, site):
        source = "DEFAULT = 2.5\ndef Half(*, x: float = DEFAULT):\n    '''Half.'''\n"
        distribute(site, "fake-half", {"weight/half": "fake_half:Half"}, {"fake_half": source})
        assert registry.get("weight", "half").peek() == "Half."
        assert "fake_half" not in sys.modules
        assert registry.get("weight", "half").describe().options["x"].default == 2.5

    def test_reading_imports_neither_module_nor_package(self, site):
        distribute(
            site,
            "fake-half",
            {"weight/half": "fake_pack.half:Half"},
            {"fake_pack.half": STAGE, "fake_pack.__init__": "raise RuntimeError"},
        )
        assert registry.get("weight", "half").describe().options["share"].help == "how much."
        assert not [name for name in sys.modules if name.startswith("fake_pack")]

    def test_namespace_packages(self, site):
        distribute(site, "fake-half", {"weight/half": "fake_space.half:Half"}, {"fake_space.half": STAGE})
        distribute(site, "fake-deep", {"weight/deep": "fake_far.off.half:Half"}, {"fake_far.off.half": STAGE})
        assert registry.get("weight", "half").peek() == "Weighs."
        assert registry.get("weight", "deep").describe().summary == "Weighs."

    def test_names_inside_functions_do_not_confuse(self, site):
        source = "def Half(*, x: int = 1): pass\ndef other(names):\n    for Half in names: pass\n"
        distribute(site, "fake-half", {}, {"fake_half": source})
        assert describe_source("fake_half", "Half").options["x"].default == 1
        with pytest.raises(ImportError, match="no attribute 'names'"):
            describe_source("fake_half", "names")

    def test_options_from_text_annotations_and_aliases(self, site):
        source = """
            from typing import Literal as L
            from farcluss.plugins.options import Share as S

            def Half(data, *, a: "S" = 1, b: L["x", "y"] | None = None, c: list[S] = [0.5], **more): pass
        """
        distribute(site, "fake-half", {}, {"fake_half": source})
        found = describe_source("fake_half", "Half")
        assert {name: readable(option.annotation) for name, option in found.options.items()} == {
            "a": "float in [0, 1]",
            "b": '"x" or "y" or unset',
            "c": "list of float in [0, 1]",
        }
        assert found.open and [option for option, _ in found.check("it", {"a": 2, "extra": 1})[1]] == ["a"]

    def test_argument_docs(self):
        doc = """Sum.

        Args:
            one: first line
                and second: line.
            two (int): typed.

        Returns:
            three: no argument.
        """
        assert argument_docs(doc) == {"one": "first line and second: line.", "two": "typed."}


class TestDocs:
    PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")

    def test_code_of_the_example_is_the_real_code(self):
        blocks = re.findall(r"<!-- (\S+) -->\n```\w+\n(.*?)```", self.PAGE, re.DOTALL)
        files = [
            p for p in (ROOT / "plugins" / "example").rglob("*") if p.suffix in (".py", ".toml") and p.stem[0] != "_"
        ]
        assert {path for path, _ in blocks} == {p.relative_to(ROOT).as_posix() for p in files}
        for path, code in blocks:
            assert code == (ROOT / path).read_text(encoding="utf-8"), f"docs/plugins.md shows another {path}"

    def test_every_group_has_its_contract(self):
        for group in registry.GROUPS:
            assert f"`farcluss.{group}`" in self.PAGE and f"**{group}.**" in self.PAGE

    def test_the_plugin_in_one_file_works(self, tmp_path):
        code = next(block for block in re.findall(r"```python\n(.*?)```", self.PAGE, re.DOTALL) if "register(" in block)
        (tmp_path / "squared.py").write_text(code)
        registry.load_file(str(tmp_path / "squared.py"))
        try:
            stage = registry.build("weight", "squared", {}, kind=PixelWeight)
            labels = random_labels(1, 3, 4, 5)
            assert torch.equal(stage.pixels(labels, torch.zeros(0)), labels.confidence.square())
        finally:
            registry.unregister("weight", "squared")

    def test_every_tester_is_told(self):
        for name in farcluss.testing.__all__:
            assert f"`{name}`" in self.PAGE

    def test_option_types_are_told(self):
        for name in {*farcluss.plugins.options.__all__} - {"Annotated", "Field", "Literal"}:
            assert f"`{name}`" in self.PAGE
