"""How well a model predicts."""
