"""A CUDA device that the processor pretends to be, for tests that need one.

``pytest -p tests.pretended.plugin -m gpu`` runs them without one. What it cannot show is speed, and what only the real
thing does: its kernels, its allocator, its drivers.
"""
