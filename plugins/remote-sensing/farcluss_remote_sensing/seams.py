"""Joins pixel polygons that were split by the seams between blocks.

Only edges on seams change, so those are canceled and the others relinked; a general polygon union takes ten times as
long.

Notation used for shapes: P parts, G groups of them, E edges. An edge leads from corner to corner of pixels along one
axis, with the polygon on its right.
"""

from array import array
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

Integers = NDArray[np.int64]


class _Edges(NamedTuple):
    """Edges: `start` `(E, 2)`, `step` `(E, 2)` from there to the end, and `group` `(E,)`."""

    start: Integers
    step: Integers
    group: Integers

    def take(self, index: NDArray[Any]) -> "_Edges":
        """Some of them."""
        return _Edges(*(each[index] for each in self))

    @property
    def direction(self) -> Integers:
        """`(E,)` 0 to 3: right, up, left, down, for y that grows upwards."""
        x, y = np.sign(self.step).T
        return np.asarray(np.where(x != 0, 1 - x, 2 - y))


def find_roots(count: int, pairs: Integers) -> Integers:
    """`(P,)` the smallest of the parts that each is connected with, by pairs `(N, 2)`."""
    roots = list(range(count))

    def find(part: int) -> int:
        while roots[part] != part:
            roots[part] = roots[roots[part]]
            part = roots[part]
        return part

    for first, second in pairs.tolist():
        low, high = sorted((find(first), find(second)))
        roots[high] = low
    return np.array([find(part) for part in range(count)], np.int64)


def join(parts: NDArray[Any], group: Integers, block: int) -> NDArray[Any]:
    """One polygon `(G,)` for the parts of each group, without the vertices of seams.

    Args:
        parts: `(P,)` polygons in normal form of shapely, with vertices at whole numbers.
        group: `(P,)` from 0 to G - 1; the pixels of a group are connected by their sides.
        block: seams are where x or y is a multiple of it.
    """
    edges = _without_seams(_edges(parts, group), block)
    order, ends = _cycles(_following(edges))
    return _polygons(edges.take(order), ends)


def _edges(parts: NDArray[Any], group: Integers) -> _Edges:
    """The edges of all rings; in normal form, outlines have the polygon on their right, and so do holes."""
    _, vertices, (ring_ends, part_ends) = shapely.to_ragged_array(parts)
    corners = np.rint(vertices).astype(np.int64)
    step = np.diff(corners, axis=0)
    real = np.ones(len(step), bool)
    real[ring_ends[1:-1] - 1] = False  # from a ring's end to the next is none
    groups = np.repeat(group, np.diff(ring_ends[part_ends]))[:-1]
    return _Edges(corners[:-1][real], step[real], groups[real])


def _without_seams(edges: _Edges, block: int) -> _Edges:
    """Divide edges on seams into those of pixels, and remove those with the same group on both sides."""
    upright = edges.step[:, 0] == 0
    on_seam = np.where(upright, edges.start[:, 0] % block == 0, edges.start[:, 1] % block == 0)
    length = np.where(on_seam, abs(edges.step).sum(1), 1)
    index = np.repeat(np.arange(len(length)), length)
    nth = np.arange(len(index)) - np.repeat(np.cumsum(length) - length, length)
    step = np.where(on_seam[:, None], np.sign(edges.step), edges.step)[index]
    divided = _Edges(edges.start[index] + nth[:, None] * step, step, edges.group[index])
    lower = np.minimum(divided.start, divided.start + step)
    key = _key(divided.group, lower, edges) * 2 + upright[index]
    key[~on_seam[index]] = -1 - np.arange((~on_seam[index]).sum())  # each its own
    _, which, count = np.unique(key, return_inverse=True, return_counts=True)
    return divided.take(count[which] == 1)


def _key(group: Integers, corner: Integers, edges: _Edges) -> Integers:
    """One number for a group and a corner."""
    width, height = edges.start.max(0) + 1
    return np.asarray((group * height + corner[:, 1]) * width + corner[:, 0])


def _following(edges: _Edges) -> Integers:
    """`(E,)` the edge that begins where each ends.

    Where two of a group begin, pixels touch by corners: turning left then makes two rings that touch, instead of
    one that touches itself.
    """
    starts, at, count = np.unique(_key(edges.group, edges.start, edges), return_inverse=True, return_counts=True)
    to = np.searchsorted(starts, _key(edges.group, edges.start + edges.step, edges))
    begins = at * 4 + np.where(count[at] > 1, edges.direction, 0)
    wanted = to * 4 + np.where(count[to] > 1, (edges.direction + 1) % 4, 0)
    order = np.argsort(begins)
    return np.asarray(order[np.searchsorted(begins, wanted, sorter=order)])


def _cycles(following: Integers) -> tuple[Integers, Integers]:
    """The edges ring by ring `(E,)`, and where rings begin and end among them."""
    nexts, seen = following.data, bytearray(len(following))  # a list of integers would be five times as large
    order, ends = array("q"), [0]
    for first in range(len(nexts)):
        at = first
        while not seen[at]:
            seen[at] = 1
            order.append(at)
            at = nexts[at]
        if len(order) > ends[-1]:
            ends.append(len(order))
    return np.frombuffer(order, np.int64), np.array(ends, np.int64)


def _polygons(edges: _Edges, ends: Integers) -> NDArray[Any]:
    """A polygon `(G,)` of the rings of each group, with vertices only where the direction changes."""
    first = ends[:-1]
    before = np.arange(len(edges.start)) - 1
    before[first] = ends[1:] - 1
    corner = edges.direction != edges.direction[before]
    areas = np.add.reduceat(edges.start[:, 0] * edges.step[:, 1] - edges.start[:, 1] * edges.step[:, 0], first)
    order = np.lexsort((areas > 0, edges.group[first]))  # the outline, which runs clockwise, before its holes
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    ring = np.repeat(rank, np.diff(ends))[corner]
    vertices = edges.start[corner][np.argsort(ring, kind="stable")].astype(np.float64)
    count = np.bincount(ring)
    last = np.cumsum(count)
    closed = np.insert(vertices, last, vertices[last - count], axis=0)
    ring_ends = np.concatenate([[0], np.cumsum(count + 1)])
    polygon_ends = np.concatenate([[0], np.cumsum(np.bincount(edges.group[first]))])
    found: NDArray[Any] = shapely.from_ragged_array(shapely.GeometryType.POLYGON, closed, (ring_ends, polygon_ends))
    return np.asarray(shapely.normalize(found))
