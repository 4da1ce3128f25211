"""Options that several plugins share: the source says what an import says."""

import sys

import pytest
from plugin_site import distribute

from farcluss.errors import PluginError
from farcluss.plugins import registry
from farcluss.plugins.sharing import with_options_of
from farcluss.plugins.signatures import describe_object, describe_source

SHARED = """
    from farcluss.plugins.options import Share

    def whole(size, *, share: Share = 0.5, name: str = "theirs"):
        '''All of it.

        Args:
            size: of all.
            share: how much,
                and of what.
            name: of theirs.

        Raises:
            ValueError: never.
        '''
        return size, share, name
"""
OWN = """
    import fake_shared
    from fake_shared import whole as everything
    from farcluss.plugins.sharing import with_options_of as like

    @like(everything)
    def half(size, *, depth: int = 3, name: str = "mine", **options):
        '''Half of it.

        Args:
            size: of the half.
            depth: of it.
            name: of mine.

        Raises:
            TypeError: never.
        '''
        return (*everything(size / 2, name=name, **options), depth)

    @like(half)
    def quarter(size, **options):
        '''Half of a half.'''
        return half(size / 2, **options)

    @like(fake_shared.whole)
    def attribute(size, **options): pass

    @like(everything)
    @staticmethod
    def wrapped(size, **options): pass

    def open_(size, **options): pass

    @like(open_)
    def opened(size, *, own: int = 1, **options): pass
"""


@pytest.fixture
def shared(site):
    """Plugins whose options are those of functions of another module."""
    places = {"weight/half": "fake_own:half", "weight/quarter": "fake_own:quarter", "weight/opened": "fake_own:opened"}
    distribute(site, "fake-own", places, {"fake_own": OWN, "fake_shared": SHARED})


@pytest.mark.parametrize("name", ["half", "quarter", "opened"])
def test_source_says_what_an_import_says(shared, name):
    found = registry.get("weight", name).describe()
    assert not {"fake_own", "fake_shared"} & set(sys.modules)
    assert found == describe_object(registry.get("weight", name).load())


def test_an_option_that_both_have_is_the_plugins_own(shared):
    options = describe_source("fake_own", "half").options
    assert [(name, o.default, o.help) for name, o in options.items()] == [
        ("depth", 3, "of it."),
        ("name", "mine", "of mine."),
        ("share", 0.5, "how much, and of what."),
    ]


def test_the_documentation_has_all_options_in_one_block(shared):
    doc = describe_source("fake_own", "half").doc
    assert doc.index("Half of it.") < doc.index("of mine.") < doc.index("how much,") < doc.index("TypeError")
    assert "of all" not in doc and "ValueError" not in doc


def test_options_of_options(shared):
    assert [*describe_source("fake_own", "quarter").options] == ["depth", "name", "share"]
    assert registry.build("weight", "quarter", {"share": 0.1}, 8) == (2, 0.1, "mine", 3)


def test_what_takes_any_option_still_does(shared):
    found = describe_source("fake_own", "opened")
    assert [*found.options] == ["own"] and found.open


def test_a_wrong_value_is_refused(shared):
    with pytest.raises(PluginError, match=r"weight/half: share: .*less than or equal to 1, not 2"):
        registry.build("weight", "half", {"share": 2}, 8)


@pytest.mark.parametrize("name", ["attribute", "wrapped"])
def test_what_source_cannot_tell(shared, name):
    assert describe_source("fake_own", name) is None


def test_the_function_itself_is_left_as_it_is():
    def plain(size, **options):
        return size, options

    assert with_options_of(lambda size, *, depth=1: None)(plain) is plain
    assert plain(1, depth=2) == (1, {"depth": 2})
