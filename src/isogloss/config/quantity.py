"""Counts and sizes as a person reads them."""


def count(n: int, noun: str, plural: str = "") -> str:
    """``1 document``, ``613 documents``, ``2 copies``."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def size(n_bytes: float) -> str:
    """``0.2 GiB``, ``34 MiB``, ``812 KiB``, ``17 bytes``: never a zero where there is something."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(n_bytes) >= 0.095 * unit:
            value = n_bytes / unit
            return f"{value:,.1f} {name}" if abs(value) < 10 else f"{value:,.0f} {name}"
    return count(round(n_bytes), "byte")
