"""How a quantity goes with the model's size: a power law, beside the exponent that a scheme promises."""

import math
import statistics
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
        doubt: how far the exponent may be off for another reason than seeds: values that a grid does not resolve.
    """

    name: str
    sizes: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]
    promised: float | None
    doubt: float = 0.0

    @property
    def slope(self) -> Interval:
        """The exponent over seeds, its interval wider by the doubt."""
        found = interval([log_slope(self.sizes, values) for values in self.values])
        return Interval(found.mean, found.half + self.doubt)

    @property
    def status(self) -> Status | None:
        """Within the tolerance of what is promised; a warning where the interval reaches beyond it, or there is none.

        ``None`` where nothing is promised, or all is 0. What cannot be fitted fails.
        """
        if self.promised is None or not any(value for values in self.values for value in values):
            return None
        found = self.slope
        if not abs(found.mean - self.promised) <= TOLERANCE:
            return Status.FAIL
        reaches = max(found.high - self.promised, self.promised - found.low)
        return Status.WARN if reaches > TOLERANCE else Status.PASS


COLUMNS = ("quantity", "slope", f"promised, +- {TOLERANCE}", "smallest -> largest", "")


def slope_rows(slopes: Sequence[Slope]) -> list[tuple[str, ...]]:
    """A table's rows, in the order of ``COLUMNS``."""
    return [
        (
            found.name,
            two_digits(found.slope),
            "-" if found.promised is None else f"{found.promised:g}",
            " -> ".join(f"{statistics.fmean(values[i] for values in found.values):.3g}" for i in (0, -1)),
            "" if found.status is None else found.status.upper(),
        )
        for found in slopes
    ]


def worst(slopes: Sequence[Slope]) -> Status:
    """Of all that is promised."""
    return max((found.status for found in slopes if found.status), key=list(Status).index, default=Status.PASS)


def two_digits(slope: Interval) -> str:
    """Such as ``-0.12 +- 0.03``."""
    return f"{slope.mean:+.2f}" + (f" +- {slope.half:.2f}" if math.isfinite(slope.half) else "")
