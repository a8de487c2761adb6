"""Models: what a recipe can train."""
