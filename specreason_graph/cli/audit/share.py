"""``audit report``, ``export`` and ``prune``."""

COMMANDS = ()
