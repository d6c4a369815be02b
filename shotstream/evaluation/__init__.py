"""Evaluation: scores of generated films, compared with what they should show."""
