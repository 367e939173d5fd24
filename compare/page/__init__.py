"""report.html: one page that holds everything, made from results.json alone and in need of no network.

``content`` says what stands on it, ``plots``, ``grids`` and ``pictures`` make its figures, ``template.html``,
``style.css`` and ``script.js`` are how it looks and what it does. plotly-basic.min.js is plotly.js 4.1.1 in its "basic"
bundle, unchanged (MIT licence, in its head): ``npm pack plotly.js-basic-dist-min`` brings the next.
"""

from __future__ import annotations

from compare.page.content import page

__all__ = ["page"]
