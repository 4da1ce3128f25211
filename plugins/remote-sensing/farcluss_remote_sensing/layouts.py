"""The layouts that scenes of one's own come in, each an entry point of the group `farcluss.dataset`."""

from pathlib import Path

from farcluss.recipe import Data
from farcluss_remote_sensing.options import root_of, with_scene_options
from farcluss_remote_sensing.scenes import Index, Scene, images_in


@with_scene_options
def rasters(data: Data, *, images: str = "images", labels: str = "labels") -> Index:
    """Folders of scenes and of labels that are called alike.

    A scene without a label of its name is unlabeled.

    Args:
        images: folder of scenes, below `data.root`.
        labels: folder of labels of the same names, with any extension: files of pixels, or of polygons.
    """
    root = root_of(data)
    found = images_in(root / images)
    known = {path.relative_to(root / labels).with_suffix(""): path for path in sorted((root / labels).rglob("*"))}

    def scene(path: Path) -> Scene:
        name = path.relative_to(root / images).with_suffix("")
        label = known.get(name)
        return Scene(name.as_posix(), (str(path),), str(label) if label else None)

    return Index({"train": [scene(path) for path in found]})
