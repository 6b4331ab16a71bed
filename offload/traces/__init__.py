"""Records what the routers of a running model choose."""
