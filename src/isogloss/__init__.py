"""Isogloss: pre-train and study language models; every weight starts at a scale the program can state and check."""

__version__ = "0.1.0"
