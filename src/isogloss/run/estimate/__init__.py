"""What a run will take on given ranks: parameters, operations, time, memory, traffic, checkpoints. Nothing is run."""

from isogloss.run.estimate.estimate import RunEstimate, estimate_recipe
from isogloss.run.estimate.table import estimate_rows

__all__ = ["RunEstimate", "estimate_recipe", "estimate_rows"]
