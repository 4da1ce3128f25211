"""Tiles that agree give what they say, to the last bit; tiles that do not pass into each other without a seam."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farcluss_remote_sensing.stitching import axis_weights, plan_axis, stitched_rows

BLENDS = ("hann", "gaussian")
strides = st.floats(0.01, 1)


@st.composite
def planned(draw, most=60):
    """Tiles along an axis, of any size and overlap."""
    return plan_axis(
        draw(st.integers(1, most)), draw(st.integers(1, most)), draw(strides), draw(st.sampled_from(BLENDS))
    )


def field(classes, height, width):
    """Probabilities `(C, H, W)` that rise along both axes: what is at the wrong place shows."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    ramp = (0.1 + 0.3 * rows / max(height, 1) + 0.2 * columns / max(width, 1)).astype(np.float32)
    return np.stack([ramp / (index + 1) for index in range(classes)])


def oracle(probs):
    """Predicts what a field says."""
    return lambda windows: [(window, probs[:, *window]) for window in windows]


def everything(predict, rows, columns, classes, first=0, last=None):
    pieces = stitched_rows(predict, rows, columns, classes, first, rows.extent if last is None else last)
    return np.concatenate([piece.copy() for _, piece in pieces], axis=1)


class TestWeights:
    @given(planned(300))
    def test_every_pixel_is_in_a_tile_that_knows_it(self, axis):
        total = np.zeros(axis.extent)
        for start in axis.starts:
            total[start : start + axis.side] += axis.weights(start)
        assert (total > 0).all()

    @given(planned(300))
    def test_what_a_network_pads_is_seen_at_the_scenes_border_alone(self, axis):
        for start in axis.starts:
            first, last = axis.reach(start)
            weights = axis.weights(start)
            assert np.flatnonzero(weights).tolist() == list(range(first - start, last - start))
            assert first == (0 if start == 0 else start + axis.overlap // 4)
            end = start + axis.side
            assert last == (end if end == axis.extent else end - axis.overlap // 4)

    @pytest.mark.parametrize("blend", BLENDS)
    def test_the_scenes_border_weighs_as_much_as_a_center(self, blend):
        weights = axis_weights(9, 1, blend, low=True, high=False)
        assert (weights[:5] == 1).all() and (np.diff(weights[4:]) < 0).all() and weights[-1] == 0
        np.testing.assert_array_equal(weights[::-1], axis_weights(9, 1, blend, low=False, high=True))
        assert (axis_weights(9, 0, blend, low=True, high=True) == 1).all()

    def test_forms(self):
        hann = axis_weights(8, 2, "hann", low=False, high=False)
        edge = (np.sin(np.pi / 8) / np.sin(3 * np.pi / 8)) ** 2
        np.testing.assert_allclose(hann, [0, 0, edge, 1, 1, edge, 0, 0], rtol=1e-6)
        gaussian = axis_weights(16, 0, "gaussian", low=False, high=False)
        np.testing.assert_allclose(gaussian[5] / gaussian[7], np.exp((0.5**2 - 2.5**2) / 2 / 4), rtol=1e-6)
        assert gaussian[0] == pytest.approx(1e-3, rel=0.1)


class TestExactness:
    @settings(max_examples=150, deadline=None)
    @given(planned(), planned(), st.floats(0.01, 1))
    def test_tiles_that_agree_are_reproduced_to_the_last_bit(self, rows, columns, level):
        for truth in (field(2, rows.extent, columns.extent), np.full((2, rows.extent, columns.extent), level, "f4")):
            np.testing.assert_array_equal(everything(oracle(truth), rows, columns, 2), truth)

    @settings(max_examples=100, deadline=None)
    @given(planned(), planned(30), st.data())
    def test_rows_come_out_alike_whichever_are_asked_for(self, rows, columns, data):
        """Each tile says something of its own."""
        first = data.draw(st.integers(0, rows.extent - 1))
        last = data.draw(st.integers(first + 1, rows.extent))

        def predict(windows):
            for window in windows:
                rng = np.random.default_rng([part.start for part in window])
                yield window, rng.random((2, rows.side, columns.side), np.float32)

        some = everything(predict, rows, columns, 2, first, last)
        np.testing.assert_array_equal(some, everything(predict, rows, columns, 2)[:, first:last])

    @settings(max_examples=50, deadline=None)
    @given(planned(40), planned(40))
    def test_the_mean_is_the_weighted_one(self, rows, columns):
        """Against sums over all tiles in float64."""
        weighted, total = np.zeros((rows.extent, columns.extent)), np.zeros((rows.extent, columns.extent))
        said = {}
        for top in rows.starts:
            for left in columns.starts:
                box = slice(top, top + rows.side), slice(left, left + columns.side)
                said[top, left] = np.random.default_rng([top, left]).random((rows.side, columns.side), np.float32)
                weights = np.outer(rows.weights(top).astype(float), columns.weights(left))
                weighted[box] += weights * said[top, left]
                total[box] += weights
        found = everything(lambda ws: [(w, said[w[0].start, w[1].start][None]) for w in ws], rows, columns, 1)
        np.testing.assert_allclose(found[0], weighted / total, atol=2e-6)


class TestPieces:
    def test_rows_are_finished_in_order_and_once(self):
        rows, columns = plan_axis(100, 16, 0.5, "hann"), plan_axis(20, 16, 0.5, "hann")
        truth = field(2, 100, 20)
        expected = 30
        for first, piece in stitched_rows(oracle(truth), rows, columns, 2, 30, 77):
            assert first == expected and 0 < piece.shape[1] <= 16
            expected += piece.shape[1]
        assert expected == 77

    def test_tiles_that_say_nothing_of_the_rows_are_not_predicted(self):
        rows, columns = plan_axis(100, 16, 0.5, "hann"), plan_axis(20, 16, 0.5, "hann")
        asked = []

        def predict(windows):
            asked.extend(window[0].start for window in windows)
            return ()

        list(stitched_rows(predict, rows, columns, 2, 42, 45))
        assert sorted(set(asked)) == [32, 40]  # 24 ends at row 40, and 48 begins behind

    def test_tiles_left_out_leave_zeros_and_no_trace(self):
        rows, columns = plan_axis(40, 16, 0.5, "hann"), plan_axis(40, 16, 0.5, "hann")
        truth = field(2, 40, 40)
        known = [(top, left) for top in rows.starts for left in columns.starts if left < 16]
        found = everything(
            lambda windows: [(w, truth[:, *w]) for w in windows if (w[0].start, w[1].start) in known], rows, columns, 2
        )
        np.testing.assert_array_equal(found[:, :, :22], truth[:, :, :22])
        assert (found[:, :, 22:] == 0).all()

    def test_a_scene_smaller_than_a_tile_is_one(self):
        rows, columns = plan_axis(7, 16, 0.5, "hann"), plan_axis(9, 16, 0.5, "gaussian")
        assert rows.starts == columns.starts == [0] and (rows.side, columns.side) == (7, 9)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("stride", [0.5, 2 / 3, 0.75])
def test_no_seam_where_tiles_disagree(blend, stride):
    """Tiles that say 0 and 1 by turns: what is between neighbors changes little by little."""
    axis = plan_axis(512, 128, stride, blend)
    mean, total = np.zeros(512), np.zeros(512)
    for number, start in enumerate(axis.starts):
        weights = axis.weights(start)
        total[start : start + 128] += weights
        mean[start : start + 128] += weights * (number % 2)
    steps = np.abs(np.diff(mean / total))
    assert steps.max() < 10 / axis.overlap
