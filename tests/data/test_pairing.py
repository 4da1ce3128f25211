"""From an image to its mask: one language for photos, scans and scenes, whatever their extensions."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farcluss.data.files import SUFFIXES
from farcluss.data.pairing import MaskFinder, below, fixed_part, stem_of
from farcluss.errors import DataError
from farcluss_medical.cases import SUFFIXES as VOLUMES
from farcluss_remote_sensing.files import SUFFIXES as RASTERS
from farcluss_remote_sensing.folders import LABELS

KINDS = {"photos": (sorted(SUFFIXES), sorted(SUFFIXES)), "scans": (VOLUMES, VOLUMES), "scenes": (RASTERS, LABELS)}
"""Extensions of images and of masks in the layouts `folder`, `scans` and `rasters`."""
NAMES = st.text("ab.-_1é", min_size=1, max_size=6).filter(lambda name: name.strip(".") == name)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def finder(kind, root, masks, images="images", suffix=""):
    return MaskFinder.of(root, images, masks, suffix, *KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_folder_and_a_pattern_find_the_same(kind, tmp_path_factory, data):
    """Any name, any folder, any extensions of both, in any case: by mirroring and by the words of a pattern."""
    root = tmp_path_factory.mktemp("tree")
    image_ends, mask_ends = KINDS[kind]
    name, folder = data.draw(NAMES), data.draw(st.sampled_from(["", "a", "a/b.c"]))
    end, mask_end = data.draw(st.sampled_from(image_ends)), data.draw(st.sampled_from(mask_ends))
    image = touch(root / "images" / folder / f"{name}_img{end.upper() if data.draw(st.booleans()) else end}")
    mask = touch(root / "masks" / folder / f"{name}{mask_end}")
    up = "masks/" + folder if folder else "masks"
    for masks in ("masks", up + "/{stem}", up + "/{stem}" + mask_end):
        found = finder(kind, root, masks, suffix="_img")
        assert found(image) == mask
        assert found.named(image.with_name(f"{name}_img")) == mask
        assert found(image.with_name(f"other{end}")) is None


@pytest.mark.parametrize("kind", KINDS)
def test_words_of_a_pattern(kind, tmp_path):
    end, mask_end = KINDS[kind][0][0], KINDS[kind][1][-1]
    image = touch(tmp_path / "place" / "images" / f"x{end}")
    masks = {"{up}/masks/{stem}": "place/masks/x", "{dir}/{stem}_gt": "place/images/x_gt", "all/{stem}": "all/x"}
    for pattern, path in masks.items():
        mask = touch(tmp_path / f"{path}{mask_end}")
        assert finder(kind, tmp_path, pattern, "*/images")(image) == mask
    with pytest.raises(DataError, match=r"\{stem\}, \{dir\} and \{up\} only"):
        finder(kind, tmp_path, "{name}/{stem}")(image)


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_masks_none_is_chosen(kind, tmp_path):
    """Whether they differ in extension, or in the normal form of their names, which nobody sees."""
    end, ends = KINDS[kind][0][0], KINDS[kind][1]
    image, other = (touch(tmp_path / "images" / f"{name}{end}") for name in ("caf\u00e9", "x"))
    mask = touch(tmp_path / "masks" / f"cafe\u0301{ends[0]}")
    for masks in ("masks", "masks/{stem}", "masks/{stem}" + ends[0]):
        assert finder(kind, tmp_path, masks)(image) == mask
    touch(tmp_path / "masks" / f"caf\u00e9{ends[0].upper()}")
    made = [touch(tmp_path / "masks" / f"x{end}") for end in (ends[0], ends[-1])]
    for masks in ("masks", "masks/{stem}"):
        found, problems = finder(kind, tmp_path, masks).all([image, other])
        assert not found and len(problems) == 2 and all(str(path) in problems[1] for path in (other.parent, *made))


def test_bare_names_serve_globs_alone(tmp_path):
    image, mask = touch(tmp_path / "a/b/x.png"), touch(tmp_path / "masks/x.png")
    assert finder("photos", tmp_path, "masks", "a/*/*.png")(image) == mask
    assert finder("photos", tmp_path, "masks", "a")(image) is None


def test_names_and_folders(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    assert [fixed_part(tmp_path, text) for text in ("a/b", "a/*/x", "*", "a/list.txt")] == [
        tmp_path / "a/b", tmp_path / "a", tmp_path, tmp_path,
    ]  # fmt: skip
    assert [stem_of(name, VOLUMES) for name in ("c.nii.gz", "c.NII", "c.v2", "c.gz")] == ["c", "c", "c.v2", "c.gz"]
    assert (below(tmp_path / "a/b", tmp_path), below(Path("/x/y"), tmp_path)) == ("a/b", "/x/y")
