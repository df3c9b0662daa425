"""``python -m specreason_graph`` is the command ``specreason``."""

if __name__ == "__main__":  # engine processes import this module too, and need nothing of it
    from specreason_graph.cli import main

    main()
