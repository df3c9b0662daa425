"""Measurements of this package."""
