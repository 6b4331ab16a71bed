"""Experts in fewer bits on a GPU: products that read the codes where they lie in the slots."""
