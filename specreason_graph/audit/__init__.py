"""Audits of recorded runs: read, verify, replay, question, compare, show, export and fork them.

Nothing here writes to an audited thread, except `keep.prune`.
"""
