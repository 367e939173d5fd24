"""curves.png: a row per preset, a colour per track."""

from __future__ import annotations

import io

from compare.results import Results, groups


def figure(results: Results) -> bytes:
    """Draw everything, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(20, 4.6 * max(1, len(groups(results)))), dpi=110, layout="constrained")
    FigureCanvasAgg(drawn)
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png")
    return buffer.getvalue()
