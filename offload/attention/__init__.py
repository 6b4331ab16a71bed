"""Attention over blocks that lie in different places."""
