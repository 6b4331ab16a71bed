"""What flash takes: senses, programs and erases on dies that share channels, and what stands behind the channels."""
