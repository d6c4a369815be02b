"""Benchmarks, one file per question; results are stored under bench/results/ at the repository's root.

Every benchmark says what it includes, warms up first, and records hardware, software and model.
"""
