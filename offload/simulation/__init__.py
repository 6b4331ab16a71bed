"""``offload simulate``: scenarios from files, and their results for people."""
