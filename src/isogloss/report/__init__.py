"""From recorded numbers to plots; knows no model."""
