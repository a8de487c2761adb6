"""Initialisation: the plan of every weight, and its carrying out."""
