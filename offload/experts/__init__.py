"""Mixture-of-experts: routed experts as blocks under the memory manager."""
