"""Tests of what runs cells."""
