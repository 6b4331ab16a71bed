"""What ``offload doctor`` measures of the runtime itself, on models of its own."""
