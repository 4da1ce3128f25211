"""Exports as annotation tools write them, drawn here, and the pixels that another rule gives."""

import json

import numpy as np
import yaml
from PIL import Image

SIZE = (48, 64)
SCENES = {
    "a": [("leaf", [(5, 6), (40, 8), (30, 38), (8, 30)]), ("apple", [(22, 14), (55, 20), (36, 44)])],
    "b": [("apple", [(10, 10), (60, 12), (50, 40), (12, 44)]), ("leaf", [(20, 18), (44, 20), (30, 34)])],
}
"""Polygons that overlap, by image; the later ones lie above."""
CLASSES = ("apple", "leaf")


def inside(corners):
    """Where a polygon certainly is, and where it certainly is not: even-odd rule, two pixels from its edges."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)
    found, near = np.zeros(SIZE, bool), np.full(SIZE, np.inf)
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        crosses = (y0 > rows) != (y1 > rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            found ^= crosses & (columns < (x1 - x0) * (rows - y0) / (y1 - y0) + x0)
        length = (x1 - x0) ** 2 + (y1 - y0) ** 2
        share = (((columns - x0) * (x1 - x0) + (rows - y0) * (y1 - y0)) / length).clip(0, 1)
        near = np.minimum(near, np.hypot(columns - x0 - share * (x1 - x0), rows - y0 - share * (y1 - y0)))
    return found, near > 2


def truth(scene):
    """Labels by position, and where they are sure; -1 is the background."""
    found, sure = np.full(SIZE, -1), np.ones(SIZE, bool)
    for label, corners in scene:
        here, clear = inside(corners)
        found[here], sure = CLASSES.index(label), sure & clear
    return found, sure


def photo(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)).save(path)


def write_json(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table))


# One function a format: it writes the scenes with polygons, and beside them an image "bare" that nobody drew on.


def coco(root):
    images = [
        {"id": 7 + i, "file_name": f"{name}.png", "height": 48, "width": 64} for i, name in enumerate([*SCENES, "bare"])
    ]
    ids = {"apple": 3, "leaf": 11}
    found = [
        {
            "id": 100 * i + j,
            "image_id": 7 + i,
            "category_id": ids[label],
            "iscrowd": 0,
            "segmentation": [np.ravel(p).tolist()],
        }
        for i, scene in enumerate(SCENES.values())
        for j, (label, p) in enumerate(scene)
    ]
    table = {"images": images, "annotations": found, "categories": [{"id": ids[name], "name": name} for name in ids]}
    write_json(root / "annotations" / "instances_default.json", table)
    for name in [*SCENES, "bare"]:
        photo(root / "images" / f"{name}.png")


def labelme(root):
    for name, scene in {**SCENES, "bare": []}.items():
        photo(root / f"{name}.png")
        shapes = [
            {"label": label, "points": p, "shape_type": "polygon", "flags": {}, "group_id": None} for label, p in scene
        ]
        write_json(
            root / f"{name}.json",
            {
                "version": "5.5.0",
                "flags": {},
                "shapes": shapes,
                "imagePath": f"{name}.png",
                "imageData": None,
                "imageHeight": 48,
                "imageWidth": 64,
            },
        )


def yolo(root):
    for name, scene in {**SCENES, "bare": []}.items():
        photo(root / "images" / "train" / f"{name}.png")
        lines = [" ".join(map(str, [CLASSES.index(label), *(np.array(p) / (64, 48)).ravel()])) for label, p in scene]
        (root / "labels" / "train").mkdir(parents=True, exist_ok=True)
        (root / "labels" / "train" / f"{name}.txt").write_text("\n".join(lines))
    table = {"path": "/somewhere/else", "train": "images/train", "val": "", "names": dict(enumerate(CLASSES))}
    (root / "data.yaml").write_text(yaml.safe_dump(table))


def cvat_xml(root):
    images = []
    for number, (name, scene) in enumerate({**SCENES, "bare": []}.items()):
        photo(root / "images" / f"{name}.png")
        drawn = [
            f'<polygon label="{label}" source="manual" points="{";".join(f"{x},{y}" for x, y in p)}" z_order="{z}"/>'
            for z, (label, p) in enumerate(scene)
        ]  # written from above to below: z_order counts, not the place in the file
        images.append(f'<image id="{number}" name="{name}.png" width="64" height="48">{"".join(drawn[::-1])}</image>')
    labels = "".join(f"<label><name>{name}</name><color>#00ff0{i}</color></label>" for i, name in enumerate(CLASSES))
    meta = f"<meta><job><labels>{labels}</labels></job></meta>"
    (root / "annotations.xml").write_text(f"<?xml version='1.0'?><annotations>{meta}{''.join(images)}</annotations>")


def label_studio(root):
    tasks = []
    for number, (name, scene) in enumerate({**SCENES, "bare": []}.items()):
        photo(root / f"{name}.png")
        result = [
            {
                "type": "polygonlabels",
                "original_width": 64,
                "original_height": 48,
                "from_name": "label",
                "to_name": "image",
                "value": {
                    "points": (np.array(p) * (100 / 64, 100 / 48)).tolist(),
                    "polygonlabels": [label],
                    "closed": True,
                },
            }
            for label, p in scene
        ]
        tasks.append(
            {
                "id": number,
                "annotations": [{"id": number, "was_cancelled": False, "result": result}],
                "data": {"image": f"/data/upload/1/0a1b2c3d-{name}.png"},
            }
        )
    write_json(root / "project.json", tasks)


def via(root):
    table = {}
    for name, scene in {**SCENES, "bare": []}.items():
        photo(root / f"{name}.png")
        regions = [
            {
                "shape_attributes": {
                    "name": "polygon",
                    "all_points_x": [x for x, _ in p],
                    "all_points_y": [y for _, y in p],
                },
                "region_attributes": {"kind": label},
            }
            for label, p in scene
        ]
        table[f"{name}.png1234"] = {"filename": f"{name}.png", "size": 1234, "regions": regions, "file_attributes": {}}
    write_json(root / "via_region_data.json", table)


def supervisely(root):
    classes = [{"title": name, "shape": "polygon", "color": f"#0000F{i}"} for i, name in enumerate(CLASSES)]
    write_json(root / "meta.json", {"classes": classes, "tags": []})
    for name, scene in {**SCENES, "bare": []}.items():
        photo(root / "ds0" / "img" / f"{name}.png")
        objects = [
            {"classTitle": label, "geometryType": "polygon", "points": {"exterior": p, "interior": []}}
            for label, p in scene
        ]
        write_json(root / "ds0" / "ann" / f"{name}.png.json", {"size": {"height": 48, "width": 64}, "objects": objects})


DRAWN = {
    "coco-json": coco,
    "labelme": labelme,
    "yolo": yolo,
    "cvat-xml": cvat_xml,
    "label-studio": label_studio,
    "via": via,
    "supervisely": supervisely,
}
