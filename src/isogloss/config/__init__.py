"""Recipes from YAML: reading, checking, explaining."""
