"""How a quantity goes with the model's size: a power law, beside the exponent that a scheme promises."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from isogloss.init.verify import Status
from isogloss.study.statistics import Interval, interval, log_slope

TOLERANCE = 0.15
"""Of an exponent. A rule that is left out changes one by 1/2 or 1."""


@dataclass(frozen=True)
class Slope:
    """How one quantity goes with the size.

    Args:
        name: of the quantity, with its role where there are several.
        sizes: widths or depths.
        values: of each seed, at each size.
        promised: the exponent that the scheme promises; ``None`` for no promise.
    """

    name: str
    sizes: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]
    promised: float | None

    @property
    def slope(self) -> Interval:
        """The exponent, over seeds."""
        return interval([log_slope(self.sizes, values) for values in self.values])

    @property
    def status(self) -> Status | None:
        """Within the tolerance of what is promised; a warning where the interval reaches beyond it."""
        if self.promised is None or math.isnan(self.slope.mean):
            return None
        found = self.slope
        if abs(found.mean - self.promised) > TOLERANCE:
            return Status.FAIL
        reaches = max(found.high - self.promised, self.promised - found.low)
        return Status.WARN if TOLERANCE < reaches < math.inf else Status.PASS


COLUMNS = ("quantity", "slope", "promised", "smallest -> largest", "")


def slope_rows(slopes: Sequence[Slope]) -> list[tuple[str, ...]]:
    """A table's rows, in the order of ``COLUMNS``."""
    return [
        (
            found.name,
            _two_digits(found.slope),
            "-" if found.promised is None else f"{found.promised:g}",
            f"{found.values[0][0]:.3g} -> {found.values[0][-1]:.3g}",
            "" if found.status is None else found.status.upper(),
        )
        for found in slopes
    ]


def worst(slopes: Sequence[Slope]) -> Status:
    """Of all that is promised."""
    return max((found.status for found in slopes if found.status), key=list(Status).index, default=Status.PASS)


def _two_digits(slope: Interval) -> str:
    return f"{slope.mean:+.2f}" + (f" +- {slope.half:.2f}" if math.isfinite(slope.half) else "")
