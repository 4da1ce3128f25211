"""docs/annotations.md: the commands of each tool do what the page says."""

import re
import shutil

import pytest
from commandline import cli
from exports import CLASSES, DRAWN, photo
from rooms import ROOT

from farcluss.annotations.drafts import EACH, JOINT
from farcluss.annotations.formats import FORMATS

PAGE = (ROOT / "docs" / "annotations.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- (\S+) -->\n```bash\n(.*?)```", PAGE, re.DOTALL))


def test_every_tool_that_is_read_and_written_has_its_commands():
    assert {*BLOCKS} == {*EACH, *JOINT}
    assert {name for name in FORMATS if f"`{name}`" in PAGE} == {*FORMATS}


@pytest.mark.parametrize("name", BLOCKS)
def test_commands_of_a_tool(name, tmp_path, monkeypatch, trained_run):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "export").mkdir()
    DRAWN[name](tmp_path / "export")
    photo(tmp_path / "photos" / "new.jpg")
    shutil.copy(trained_run / "weights" / "last.safetensors", "weights.safetensors")
    said = []
    for line in BLOCKS[name].splitlines():
        found = cli(*line.split()[1:])
        assert found.code == 0, found
        said.append(found.out)
    assert all(label in (tmp_path / "export.toml").read_text() for label in CLASSES)
    masks = sorted(path.name for path in (tmp_path / "masks").rglob("*.png"))
    assert "2 with a mask" in said[1] and masks == ["a.png", "b.png"]
    written = {path.name for path in tmp_path.rglob("*") if path.parent.name in ("predictions", "photos")}
    assert (f"new{EACH[name][0]}" if name in EACH else JOINT[name][0]) in written
