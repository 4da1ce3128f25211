"""Counts of each image: they add up to the scores of all, and come back from their file."""

import json

import numpy as np
import pytest
from commandline import cli

from farcluss.data.base import Item
from farcluss.errors import DataError
from farcluss.inference.evaluation import Scores
from farcluss.inference.per_image import PerImage, iou, mean_iou, read_per_image

CLASSES = ("sky", 'a "b", c', "x right", "absent")


def drawn(images=7, seed=0):
    """Confusion matrices; of the last class there is nothing anywhere."""
    rng = np.random.default_rng(seed)
    matrices = rng.integers(0, 50, (images, 4, 4))
    matrices[:, 3], matrices[:, :, 3] = 0, 0
    matrices[0] = 0  # an image without a valid pixel
    return [(Item(f"i{n}", f"/x/i{n}.png", group=f"g{n % 3}" if n else ""), m) for n, m in enumerate(matrices)]


def test_they_add_up_to_the_scores_of_all():
    found = drawn()
    scores = Scores(np.stack([matrix for _, matrix in found]).sum(0), CLASSES)
    whole = PerImage.of(CLASSES, found).counts.sum(0)
    np.testing.assert_allclose(iou(whole), scores.iou, rtol=1e-12)
    np.testing.assert_allclose(mean_iou(whole), scores.miou, rtol=1e-12)
    for index, (_, matrix) in enumerate(found):
        alone, table = Scores(matrix, CLASSES), PerImage.of(CLASSES, found)
        np.testing.assert_allclose(table.miou[index], alone.miou, rtol=1e-12)
        np.testing.assert_allclose(table.accuracy[index], alone.pixel_accuracy, rtol=1e-12)


def test_a_file_brings_them_back(tmp_path):
    table = PerImage.of(CLASSES, drawn()[::-1])
    assert table.images == tuple(f"i{n}" for n in range(7))  # in order of their ids
    (tmp_path / "t.csv").write_text(table.to_csv())
    found = read_per_image(tmp_path / "t.csv")
    assert (found.classes, found.images, found.groups) == (table.classes, table.images, table.groups)
    assert np.array_equal(found.counts, table.counts)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "image,group,pixels,accuracy,miou,a right\n1,,2,3,4,5\n"])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match="no table of `farcluss eval --per-image`"):
        read_per_image(tmp_path / "t.csv")


def test_eval_writes_them(trained_run, tmp_path):
    weights = trained_run / "weights" / "last.safetensors"
    told = cli("eval", weights, "--json", "--per-image", tmp_path / "deep" / "t.csv", "--workers", "0",
               "--set", "eval.flip=false")  # fmt: skip
    facts, table = json.loads(told.out), read_per_image(tmp_path / "deep" / "t.csv")
    whole = table.counts.sum(0)
    assert len(table.images) == facts["images"] == 3
    assert [row["pixels"] for row in facts["classes"]] == whole[1].tolist()
    np.testing.assert_allclose(mean_iou(whole), facts["miou"], rtol=1e-12)
    assert np.array_equal(whole[0], np.diag(facts["confusion"]))
