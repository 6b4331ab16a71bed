"""What will be needed next. Knows nothing of bytes, devices or threads."""
