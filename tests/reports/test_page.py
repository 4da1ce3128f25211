"""Pages: one file that needs nothing else, and that eyes, ears and keyboards can use."""

import re

import numpy as np
import pytest
from pages import check

from farcluss.reports import page

HOSTILE = '<script>alert("1")</script>&amp;"'


@pytest.fixture
def whole():
    picture = np.zeros((600, 40, 3), np.uint8)
    body = page.chart("<svg></svg>", HOSTILE, HOSTILE, page.table((HOSTILE, "b"), [(HOSTILE, "1")], HOSTILE))
    sections = [
        page.Section("Curves & more", page.grid([body])),
        page.Section("Empty", page.grid([])),
        page.Section("Pictures", page.strip([(HOSTILE, picture)], HOSTILE)),
    ]
    lead = page.facts([(HOSTILE, "1 %")]) + page.paragraphs([HOSTILE], "warning")
    return page.page(HOSTILE, lead, sections, HOSTILE)


def test_foreign_text_is_text(whole):
    read = check(whole)
    assert "".join(read.words).count(HOSTILE) >= 8


def test_empty_sections_are_left_out(whole):
    read = check(whole)
    links = [attrs["href"] for tag, attrs in read.elements if tag == "a"]
    assert links == ["#curves---more", "#pictures"]


def test_wide_tables_can_be_reached_by_keyboard(whole):
    wide = [attrs for tag, attrs in check(whole).elements if attrs.get("class") == "wide"]
    assert wide and all(attrs["tabindex"] == "0" and attrs["role"] == "region" for attrs in wide)


def luminance(color):
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_lines_stand_out(dark):
    """WCAG 2.2: 4.5 for text, 3 for graphics; on the page and on its panels."""
    block = page.STYLE.split("prefers-color-scheme: dark")[dark]
    colors = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
    for ground in (colors["paper"], colors["panel"]):
        assert contrast(colors["ink"], ground) >= 7 and contrast(colors["link"], ground) >= 4.5
        assert min(contrast(colors[f"s{n}"], ground) for n in range(7) if n not in (4,) or dark) >= 3
