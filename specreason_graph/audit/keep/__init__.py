"""Export of runs to other tools, and pruning of threads."""
