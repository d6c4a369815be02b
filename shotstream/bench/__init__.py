"""Measurements, one file per benchmark; results are kept under bench/results/ at the root.

Every measurement says what it includes, warms up first, and names hardware, software and model.
"""
