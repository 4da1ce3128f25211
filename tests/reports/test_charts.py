"""Charts: well-formed SVG without colors, names or addresses of its own, that says what it is given."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from farcluss.reports.charts import VARIABLES, curves, matrix, over_time, reliability, risk_coverage, shares

NAMES = ["sky", "a < b & c", "road"]
CHARTS = {
    "one curve": lambda: curves({"teacher": [([1, 2, 3], [0.1, 0.2, 0.3])]}, "mIoU"),
    "curves with a spread": lambda: curves(
        {"a": [([1, 2], [0.1, 0.2]), ([1, 2, 3], [0.2, 0.4, 0.5])], "b": [([1, 2], [0.3, 0.1])]}, "mIoU"
    ),
    "a single point": lambda: curves({"loss": [([5], [0.5])]}, "loss", percent=False),
    "shares": lambda: shares({"m": {"sky": (0.5, 0.9), "a < b & c": (0.01, 0.2), "none": (0.0, float("nan"))}}),
    "matrix": lambda: matrix(np.array([[5, 1, 0], [0, 0, 0], [2, 2, 9]]), NAMES),
    "a large matrix": lambda: matrix(np.eye(60, dtype=int), [f"c{n}" for n in range(60)]),
    "reliability": lambda: reliability(np.array([[0, 0, 0], [10, 5.5, 4], [90, 80, 70.0]])),
    "risk": lambda: risk_coverage({"u": np.array([[0.2, 0.0], [1.0, 0.3]])}),
    "over time": lambda: over_time([1, 2, 3], np.array([[0.0, 1, 2], [3, 4, 5], [6, 7, 8]]), NAMES, "weight"),
}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module", params=CHARTS)
def chart(request):
    return CHARTS[request.param]()


def test_it_is_svg_that_fits_into_any_page(chart):
    root = ET.fromstring(chart)
    assert root.tag == f"{SVG}svg" and root.get("viewBox") and root.get("width") is root.get("height") is None
    assert root.get("aria-hidden") == "true"  # the page says in words what it shows
    assert not [element for element in root.iter() if element.tag in (f"{SVG}script", f"{SVG}metadata")]


def test_its_colors_are_the_pages(chart):
    assert not [color for color in VARIABLES if color in chart]
    assert "var(--ink)" in chart and "var(--quiet)" in chart


def test_nothing_is_fetched(chart):
    links = re.findall(r'(?:href|src)="([^"]*)"', chart)
    assert all(link.startswith(("#", "data:image/png;base64")) for link in links)
    assert set(re.findall(r"url\(([^)]*)\)", chart)) <= {f"#{name}" for name in re.findall(r' id="([^"]*)"', chart)}


def test_two_charts_share_no_names():
    one, other = (set(re.findall(r' id="([^"]*)"', CHARTS["shares"]())) for _ in range(2))
    assert one and not one & other


def text_of(chart):
    return {"".join(element.itertext()).strip() for element in ET.fromstring(chart).iter(f"{SVG}text")}


def test_text_stays_text():
    assert {"sky", "a < b & c", "IoU"} <= text_of(CHARTS["shares"]()) and "none" not in text_of(CHARTS["shares"]())
    assert {"83", "17", "69", "predicted"} <= text_of(CHARTS["matrix"]())  # percent of each true class
    assert {"a", "b", "mIoU", "step"} <= text_of(CHARTS["curves with a spread"]())
