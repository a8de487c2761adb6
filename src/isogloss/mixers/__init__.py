"""Sequence mixers: (B, T, D) -> (B, T, D), one file each."""
