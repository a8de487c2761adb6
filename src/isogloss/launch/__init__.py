"""Starting a run on several ranks: on this machine, or as a SLURM job."""
