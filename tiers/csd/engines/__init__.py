"""Attention inside the drive: engines over pages."""
