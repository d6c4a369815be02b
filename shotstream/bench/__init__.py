"""Measurements, one file per question; results are kept under bench/results/ at the root."""
