"""Traces of requests as a KV cache sees them: recorded ones in several formats, and made-up ones."""
