"""Filters of documents: a range for each measure of a text; all are off unless they are set."""

from isogloss.config.base import Config


class FilterConfig(Config):
    """Which documents are kept."""


def reason_to_drop(text: str, filters: FilterConfig) -> str | None:
    """The first filter that a text does not pass, or None."""
    return None
