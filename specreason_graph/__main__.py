"""``python -m specreason_graph`` is the command ``specreason``."""

from specreason_graph.cli.app import main

if __name__ == "__main__":
    main()
