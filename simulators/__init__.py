"""Time without hardware: hardware profiles, cost models, traces and replay. Knows nothing of torch."""
