"""Whole systems that generate text with keys and values outside the GPU, as models: seconds of prefill and decode."""
