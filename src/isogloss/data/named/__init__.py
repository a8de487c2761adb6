"""Corpora by name: fetched through pip's own client or read from what is installed, and never executed."""
