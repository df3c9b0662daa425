"""Looking into what was kept of a run: verify, replay, question, fork, compare and show it, without writing to it."""
