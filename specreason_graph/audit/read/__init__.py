"""Reads runs from raw checkpoints, with no graph and no engine, and trusts nothing that is stored."""
