"""Where weights come from: safetensors directories, GGUF files, and how their tensors fall into groups."""
