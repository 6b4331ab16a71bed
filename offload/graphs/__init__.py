"""Decode steps replayed by the device alone, where all that they need stays there."""
