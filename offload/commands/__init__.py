"""One file per command: options, the one call that does the work, and what is shown."""
