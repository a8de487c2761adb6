"""Checkpoints: whole or absent, verified, free of pickle; saved by any number of processes, loaded by any other."""
