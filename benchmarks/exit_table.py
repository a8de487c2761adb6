"""The table of exit codes in docs/launch.md, from `isogloss.exit_codes`."""

from isogloss.exit_codes import EXITS
from isogloss.report.tables import markdown_table


def table() -> str:
    """One row for each code and what it means where."""
    return markdown_table(
        ("code", "of", "means"),
        [
            (f"**{row.code}**", ", ".join(v if v.startswith("every") else f"`{v}`" for v in row.verbs), row.meaning)
            for row in EXITS
        ],
    ).strip()
