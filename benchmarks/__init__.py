"""Measurements of this package itself, which are not installed; ``python -m benchmarks --help`` lists them."""
