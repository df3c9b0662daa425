"""Checks of a record: whether it is as it was written, and whether it follows from its evidence."""
