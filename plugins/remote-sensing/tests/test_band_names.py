"""The names of a scene's bands reach the recipe, which picks those of pretrained weights by them."""

import rasterio
import timm
import torch
from drawn_scenes import Drawing, draw_label, draw_tree, write

import farcluss
from farcluss.learning.build import build_parts

RECIPE = """
[data]
root = "{root}"
layout = {{ name = "rasters", scaling = "scale"{layout} }}
val = "none"
classes = {{ water = 1, field = 2, forest = 3, town = 4 }}
ignore_index = 0
crop = 32
workers = 0
{data}
[network]
encoder = "test_resnet"
aspp_channels = 8
head_channels = 8
low_level_channels = 8
{network}
[stages]
augment = "intensity"
[train]
steps = 1
"""


def parts(root, data="", layout="", network=""):
    (root / "recipe.toml").write_text(RECIPE.format(root=root, data=data, layout=layout, network=network))
    return build_parts(farcluss.load_recipe(root / "recipe.toml"))


def describe(root, names):
    """Write names of bands into the files of a tree; a list of them by the file's stem, or one for all."""
    for path in sorted((root / "images").glob("*.tif")):
        with rasterio.open(path, "r+") as file:
            file.descriptions = names.get(path.stem, names["*"])


def test_descriptions_name_the_channels(tmp_path):
    draw_tree(tmp_path, Drawing(bands=4))
    assert parts(tmp_path).recipe.data.channel_names is None
    describe(tmp_path, {"*": ("B02", "B03", "B04", "B08")})
    assert parts(tmp_path).recipe.data.channel_names == ["B02", "B03", "B04", "B08"]
    assert parts(tmp_path, layout=", bands = [4, 1]").recipe.data.channel_names == ["B08", "B02"]
    own = parts(tmp_path, 'channel_names = ["blue", "green", "red", "nir"]')
    assert own.recipe.data.channel_names == ["blue", "green", "red", "nir"]
    describe(tmp_path, {"*": ("B02", "B03", "B04", "B08"), "s1": ("B02", "B03", "B04", "B8A")})  # they disagree
    assert parts(tmp_path).recipe.data.channel_names is None


def test_endings_of_files_name_the_channels(tmp_path):
    drawing = Drawing(bands=2)
    for number, name in enumerate(("_B02", "_B08")):
        for scene in ("s0", "s1"):
            write(tmp_path / "images" / f"{scene}{name}.tif", drawing.values()[number], drawing)
    draw_label(tmp_path / "labels/s0.tif", drawing)
    assert parts(tmp_path, layout=', band_files = ["_B02", "_B08"]').recipe.data.channel_names == ["B02", "B08"]


def test_weights_of_other_bands_are_read_by_these_names(tmp_path):
    draw_tree(tmp_path, Drawing(bands=3))
    describe(tmp_path, {"*": ("B08", "B04", "B03")})
    torch.manual_seed(1)
    state = timm.create_model("test_resnet", in_chans=5, num_classes=0).state_dict()
    torch.save(state, tmp_path / "w.pth")
    network = f'pretrained = "{tmp_path}/w.pth"\npretrained_bands = ["B2", "B3", "B4", "B8", "B11"]'
    student, _ = parts(tmp_path, network=network).build_networks()
    torch.testing.assert_close(student.encoder.state_dict()["conv1.0.weight"],
                               state["conv1.0.weight"][:, [3, 2, 1]] * 5 / 3)  # fmt: skip
    assert "reads B8 B4 B3 of 5 bands" in student.pretrained_report
