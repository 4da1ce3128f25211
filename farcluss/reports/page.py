"""A page of HTML in one file: no script, nothing to load; light and dark, wide and narrow, for eyes and ears."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --quiet: #c4c4c4; --paper: #ffffff; --panel: #f4f4f2; --link: #0b5394;
  --s0: #0072b2; --s1: #d55e00; --s2: #009e73; --s3: #b3446c; --s4: #56b4e9; --s5: #8a6d00; --s6: #595959; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --quiet: #4d4d4d; --paper: #16181b; --panel: #212429;
  --link: #8ec5ff; --s0: #4fb0e8; --s1: #ff9a4d; --s2: #2fd0a0; --s3: #e58db0; --s4: #a5d8f7; --s5: #e6c84f;
  --s6: #b5b5b5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
header, main, footer { max-width: 76rem; margin: 0 auto; padding: 0.5rem 1rem; }
h1 { font-size: 1.6rem; margin: 0.6rem 0 0; overflow-wrap: anywhere; } h2 { font-size: 1.25rem; margin: 2rem 0 0.5rem; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; padding: 0; margin: 0.5rem 0; list-style: none; }
a { color: var(--link); } :focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); gap: 1rem;
  align-items: start; }
figure { margin: 0; background: var(--panel); border-radius: 0.4rem; padding: 0.6rem; min-width: 0; }
figure svg { width: 100%; height: auto; display: block; } figcaption { font-size: 0.9rem; }
.facts { display: flex; flex-wrap: wrap; gap: 0.5rem 2rem; margin: 0.8rem 0; padding: 0; list-style: none; }
.facts b { display: block; font-size: 1.3rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.2rem 0.6rem; border-bottom: 1px solid var(--quiet); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } td.text { text-align: left; white-space: normal; }
.strip { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: 0.4rem; }
.strip img { width: 100%; display: block; } .strip figure { padding: 0.3rem; }
.warning { border-left: 0.3rem solid var(--s1); padding-left: 0.7rem; }
details { margin: 0.4rem 0; } summary { cursor: pointer; }
"""


@dataclass(frozen=True)
class Section:
    """A part of a page: a heading, and HTML below it."""

    title: str
    body: str

    @property
    def anchor(self) -> str:
        """Its place in addresses."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())


def page(title: str, lead: str, sections: Sequence[Section], footer: str) -> str:
    """A whole page; sections without a body are left out."""
    kept = [section for section in sections if section.body]
    links = "".join(f'<li><a href="#{each.anchor}">{escape(each.title)}</a></li>' for each in kept)
    parts = "".join(
        f'<section id="{each.anchor}" aria-labelledby="{each.anchor}-h">'
        f'<h2 id="{each.anchor}-h">{escape(each.title)}</h2>{each.body}</section>\n'
        for each in kept
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style></head>\n<body><header><h1>{escape(title)}</h1>{lead}'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n<main>{parts}</main>\n'
        f"<footer><p>{escape(footer)}</p></footer></body></html>\n"
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """A few large figures with what they are."""
    return (
        f'<ul class="facts">{"".join(f"<li><b>{escape(value)}</b>{escape(name)}</li>" for name, value in pairs)}</ul>'
    )


def paragraphs(texts: Iterable[str], kind: str = "") -> str:
    """Sentences, each a paragraph; `kind` is a class of the style."""
    return "".join(f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>" for text in texts)


def chart(svg: str, alt: str, caption: str, table: str = "") -> str:
    """A chart with what it shows in words, and its numbers in a table that opens."""
    numbers = f"<details><summary>Numbers</summary>{table}</details>" if table else ""
    return (
        f'<figure><div role="img" aria-label="{escape(alt)}">{svg}</div><figcaption>{escape(caption)}</figcaption>'
        f"{numbers}</figure>"
    )


def grid(parts: Iterable[str]) -> str:
    """Charts side by side, as many as there is room for; nothing for none."""
    body = "".join(parts)
    return f'<div class="grid">{body}</div>' if body else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], caption: str, texts: bool = False) -> str:
    """A table that scrolls by itself where it is too wide; with `texts`, its cells wrap."""
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in heads)
    cell = '<td class="text">' if texts else "<td>"
    body = "".join(f"<tr>{''.join(f'{cell}{escape(value)}</td>' for value in row)}</tr>" for row in rows)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def strip(pictures: Sequence[tuple[str, NDArray[np.uint8]]], caption: str, width: int = 300) -> str:
    """Pictures `(H, W, 3)` of one image beside each other, each with a name, and a caption."""
    cells = "".join(
        f'<figure><img src="{_address(picture, width)}" alt="{escape(name)} of {escape(caption)}" loading="lazy">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, picture in pictures
    )
    return f'<h3>{escape(caption)}</h3><div class="strip">{cells}</div>'


def _address(picture: NDArray[np.uint8], width: int) -> str:
    """A small WebP picture as an address that holds it."""
    image = Image.fromarray(picture)
    image.thumbnail((width, 2 * width))
    content = io.BytesIO()
    image.save(content, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
