"""The target that is not counted, by itself: who prepares text in many processes need not load PyTorch for it."""

IGNORED = -100
"""A target with this value is not counted (PyTorch's own convention)."""
