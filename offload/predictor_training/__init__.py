"""Trains predictors of experts from recorded routing."""
