"""Runs that are kept: how they were launched, where they stand, and going on with them."""
