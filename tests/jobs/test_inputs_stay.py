"""No command replaces what it reads, by whatever name its output is given."""

import os
from pathlib import Path

import pytest
from commandline import cli

from conftest import own_recipe


def through_link(path: Path, folder: Path) -> Path:
    (folder / "link").symlink_to(path)
    return folder / "link"


def through_hard_link(path: Path, folder: Path) -> Path:
    os.link(path, folder / "hard")
    return folder / "hard"


NAMES = {
    "itself": lambda path, folder: path,
    "dots": lambda path, folder: path.parent / ".." / path.parent.name / path.name,
    "link": through_link,
    "hard link": through_hard_link,
}


def contents(*files: Path) -> list[bytes]:
    return [path.read_bytes() for path in files]


@pytest.mark.parametrize("named", NAMES.values(), ids=NAMES)
def test_export(trained_run, tmp_path, named):
    files = sorted((trained_run / "weights").iterdir())
    before, output = contents(*files), named(files[0], tmp_path)
    for source in (trained_run, files[0]):
        for words in (["-o", output], ["-o", tmp_path / "new", "--onnx", output]):
            assert "it would be replaced" in cli("export", source, *words, "--overwrite").refusal
    assert contents(*files) == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize("named", NAMES.values(), ids=NAMES)
def test_pack(image_folder, tmp_path, named):
    recipe = tmp_path / "own.toml"
    recipe.write_text(own_recipe(image_folder, 'classes = ["a", "b", "c"]', "steps = 1"))
    files = [recipe, image_folder / "images/train/0.png", image_folder / "masks/train/0.png"]
    before = contents(*files)
    for number, path in enumerate(files):
        (tmp_path / f"{number}").mkdir()
        assert "-o" in cli("pack", recipe, "-o", named(path, tmp_path / f"{number}"), "--overwrite").refusal
    assert contents(*files) == before


def test_pack_of_files_that_begin_like_a_pack(image_folder, tmp_path):
    image = image_folder / "images/train/0.png"
    recipe = tmp_path / "own.toml"
    recipe.write_text(own_recipe(image_folder, 'classes = ["a", "b", "c"]', "steps = 1"))
    from farcluss.data import pack
    from farcluss.jobs import packing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "SIGNATURE", image.read_bytes()[:8])
        assert packing.is_hdf5(image)
        assert "it would be replaced" in cli("pack", recipe, "-o", image, "--overwrite").refusal


@pytest.mark.parametrize("extends", ["../victim.toml", "{folder}/victim.toml", "away/victim.toml"])
def test_a_copy_of_a_recipe_stays_in_its_folder(tmp_path, extends):
    for name in ("here", "elsewhere", "here/away", "target"):
        (tmp_path / name).mkdir()
    (tmp_path / "target" / "away").symlink_to(tmp_path / "elsewhere")
    extends = extends.format(folder=tmp_path)
    recipe = tmp_path / "here" / "mine.toml"
    recipe.write_text(f'extends = "{extends}"\n')
    base = recipe.parent / extends
    base.write_text("[train]\nsteps = 1\n")
    refusal = cli("recipes", "copy", recipe, tmp_path / "target" / "mine.toml").refusal
    assert "would lie outside of" in refusal
    assert sorted(path.name for path in tmp_path.rglob("*.toml")) == sorted(["mine.toml", base.name])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'extends = "gone.toml"', "there is no file gone.toml in"),
        (b"extends = 7", "there is no file 7 in"),
        (b"[train", "not valid TOML"),
        (b"\x89PNG\r\n\xff", "mine.toml is not"),
    ],
)
def test_a_recipe_that_cannot_be_copied_leaves_nothing(tmp_path, content, words):
    (tmp_path / "mine.toml").write_bytes(content)
    refusal = cli("recipes", "copy", tmp_path / "mine.toml", tmp_path / "copy.toml").refusal
    assert words in refusal and "cannot be written" not in refusal
    assert not (tmp_path / "copy.toml").exists()
