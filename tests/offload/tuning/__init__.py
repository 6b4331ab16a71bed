"""Tests of the search for policy and budgets."""
