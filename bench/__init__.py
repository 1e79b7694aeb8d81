"""Benchmarks: ratios of two sides measured in one run. ``python -m bench`` writes bench/results/."""
