"""Corpora that are generated, so that the lowest loss that any model can reach on them is known exactly."""
