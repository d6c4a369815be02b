"""Scores of films against what they should show."""
