"""What is done to the values of bands."""

import numpy as np
import pytest

from farcluss.errors import DataError, RecipeError
from farcluss_remote_sensing.scaling import build_scaling

RNG = np.random.default_rng(0)
VALUES = RNG.integers(0, 10_000, (3, 8, 9)).astype(np.uint16)
VALID = RNG.uniform(size=(8, 9)) > 0.3
STATS = [{"dtype": "uint16", "mean": 10.0 * n + 5, "std": 3.0 + n, "low": 20.0 * n, "high": 9000.0} for n in range(3)]
FILL = (0.25, 0.5, 0.75)


def scaled(mode, values=VALUES, valid=VALID):
    return build_scaling(mode, 10_000.0, STATS, 3, FILL)(values, valid)


def expected(mode):
    x = VALUES.astype(np.float64)
    column = {key: np.array([band[key] for band in STATS])[:, None, None] for key in ("mean", "std", "low", "high")}
    return {
        "zscore": (x - column["mean"]) / column["std"],
        "percentile": ((x - column["low"]) / (column["high"] - column["low"])).clip(0, 1),
        "scale": x / 10_000,
    }[mode]


@pytest.mark.parametrize("mode", ["zscore", "percentile", "scale"])
class TestModes:
    def test_values(self, mode):
        found = scaled(mode)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[:, VALID], expected(mode)[:, VALID], rtol=1e-6, atol=1e-7)

    def test_invalid_pixels_hold_the_fill_whatever_they_held(self, mode):
        wild = VALUES.astype(np.float64)
        wild[:, ~VALID] = RNG.choice([np.nan, np.inf, -np.inf, 1e300], (3, int((~VALID).sum())))
        found = scaled(mode, wild)
        np.testing.assert_array_equal(found, scaled(mode))
        np.testing.assert_array_equal(found[:, ~VALID], np.float32(FILL)[:, None].repeat((~VALID).sum(), 1))


def test_imagenet_leaves_8_bits_alone():
    values = (VALUES % 256).astype(np.uint8)
    found = scaled("imagenet", values)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[:, VALID], values[:, VALID])
    np.testing.assert_array_equal(found[:, ~VALID].T, [[64, 128, 191]] * (~VALID).sum())


def test_a_constant_band_stays_finite():
    stats = [{"mean": 4.0, "std": 0.0, "low": 4.0, "high": 4.0}]
    for mode in ("zscore", "percentile"):
        found = build_scaling(mode, 1.0, stats, 1, (0.0,))(np.full((1, 2, 2), 4, np.uint8), np.ones((2, 2), bool))
        assert (found == 0).all()


class TestRefusals:
    @pytest.mark.parametrize("mode", ["zscore", "percentile"])
    def test_no_statistics(self, mode):
        with pytest.raises(RecipeError, match="farcluss rs stats"):
            build_scaling(mode, 1.0, [], 3, FILL)

    def test_statistics_of_other_bands(self):
        with pytest.raises(RecipeError, match=r"3 bands, but data.channels is 4"):
            build_scaling("zscore", 1.0, STATS, 4, FILL)

    def test_statistics_without_percentiles(self):
        with pytest.raises(RecipeError, match="lacks low"):
            build_scaling("percentile", 1.0, [{"mean": 0.0, "std": 1.0}] * 3, 3, FILL)

    def test_imagenet_of_other_than_three_bands(self):
        with pytest.raises(RecipeError, match="3 bands"):
            build_scaling("imagenet", 1.0, [], 4, FILL)

    @pytest.mark.parametrize(("mode", "dtype"), [("imagenet", "uint16"), ("zscore", "uint8")])
    def test_bands_of_another_type(self, mode, dtype):
        with pytest.raises(DataError, match=f"b.tif.*{dtype}"):
            dtypes = ["uint8" if mode == "imagenet" else "uint16", dtype, dtype]
            build_scaling(mode, 1.0, STATS, 3, FILL).check(dtypes, ["a.tif", "b.tif", "c.tif"])
