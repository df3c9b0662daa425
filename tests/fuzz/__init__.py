"""Longer, randomised checks, each a command: ``python -m tests.fuzz.NAME``; the tests run short forms of them."""
