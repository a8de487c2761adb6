"""The life of a run: its folder, from start or resume to the summary."""
