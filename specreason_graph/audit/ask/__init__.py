"""What another policy would have decided, and how two runs differ."""
