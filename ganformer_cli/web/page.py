"""The page: one HTML text that needs no other file."""

from __future__ import annotations

import functools
from importlib.resources import files


@functools.cache
def page_html() -> str:
    """The page with its style, its script and the chart library inside."""
    static = files("ganformer_cli.web") / "static"
    text = {name: (static / name).read_text(encoding="utf-8") for name in _PARTS.values()}
    page = (static / "page.html").read_text(encoding="utf-8")
    for place, name in _PARTS.items():
        page = page.replace(place, text[name])
    return page


_PARTS = {
    "/*{uplot.css}*/": "uPlot.min.css",
    "/*{page.css}*/": "page.css",
    "/*{uplot.js}*/": "uPlot.iife.min.js",
    "/*{page.js}*/": "page.js",
}
