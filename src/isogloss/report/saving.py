"""Figures to files that are there whole, or as they were before."""

import io
from pathlib import Path
from typing import Any

from isogloss.durable import write_whole


def save_figure(figure: Any, path: Path, dpi: float) -> None:
    """Write a figure of matplotlib's, which is imported only where it is needed, as a PNG.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi, format="png")
    write_whole(path, drawn.getvalue())
