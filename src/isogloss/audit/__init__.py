"""The initialisation of any model, read off the model itself."""
