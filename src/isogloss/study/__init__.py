"""Studies of initialisation: many small trainings, side by side."""
