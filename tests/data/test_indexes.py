"""What is said of splits and names that an index lacks, and of files that are not right."""

from dataclasses import dataclass, field

import pytest

from farcluss.data.indexes import in_split, refuse_name, refuse_problems
from farcluss.errors import DataError
from farcluss.recipes.model import Data


@dataclass
class Found:
    problems: list = field(default_factory=list)
    splits: dict = field(default_factory=lambda: {"train": ["a", "b"], "val": []})


STOP, SKIP = Data(root="x"), Data(root="x", on_error="skip")
ONE, TWO = Found(["a is\ntwice."]), Found(["a is\ntwice.", "b is gone."])


@pytest.mark.parametrize(("index", "data"), [(Found(), STOP), (Found(), SKIP), (TWO, SKIP)])
def test_a_split(index, data):
    assert in_split(index, "train", data, "scan") == ["a", "b"]
    assert in_split(index, "val", data, "scan") == []


def test_an_unknown_split():
    with pytest.raises(DataError, match=r"no split 'test'; it has train, val\. Set data\.val to a share or a list\."):
        in_split(TWO, "test", STOP, "scan")


@pytest.mark.parametrize(
    ("index", "said"),
    [(ONE, "a is twice.\nFix it (`farcluss check`"), (TWO, "a is twice. And 1 more.\nFix them (`farcluss check`")],
)
def test_problems_stop_unless_they_may_be_skipped(index, said):
    for ask in (lambda: refuse_problems(index, STOP, "scan"), lambda: in_split(index, "train", STOP, "scan")):
        with pytest.raises(DataError) as caught:
            ask()
        assert str(caught.value).startswith(said)
        assert str(caught.value).endswith("leave these scans out with --set data.on_error=skip.")
    refuse_problems(index, SKIP, "scan")


@pytest.mark.parametrize(
    ("index", "data", "said"),
    [
        (Found(), STOP, "'c' is not a scan of this data set; write a."),
        (TWO, SKIP, "'c' is not a scan of this data set (or it was left out: `farcluss check` says why); write a."),
        (ONE, STOP, "a is twice.\nFix it"),
    ],
)
def test_an_unknown_name(index, data, said):
    with pytest.raises(DataError) as caught:
        refuse_name("c", index, data, "scan", "a")
    assert str(caught.value).startswith(said)
