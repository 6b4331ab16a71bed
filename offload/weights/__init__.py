"""Model weights that pass through the device in groups."""
