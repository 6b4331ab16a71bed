"""What papers say their systems reach, and what is predicted for them from the numbers of their hardware."""
