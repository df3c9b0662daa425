"""Measurements of this package itself; not installed. ``python -m benchmarks --help`` lists them."""
