"""Training on several ranks: who they are, how they are laid out, and what each holds of a model and of a batch."""
