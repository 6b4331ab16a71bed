"""A drive that computes: what attention engines read, and the engines."""
