"""report.html: one self-contained page, made from results.json alone.

``content`` lists its sections; ``plots``, ``bars``, ``grids``, ``pictures`` and ``roof`` make the figures;
``template.html``, ``style.css`` and ``script.js`` are its layout and behaviour. plotly-basic.min.js is plotly.js
4.1.1 in its "basic" bundle, unchanged (MIT licence, in its head): ``npm pack plotly.js-basic-dist-min`` makes the next.
"""
