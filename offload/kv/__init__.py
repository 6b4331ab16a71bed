"""The KV cache as blocks under the memory manager."""
