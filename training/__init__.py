"""How the abacus pair is made: ``python -m training make``, and ``python -m training evaluate`` to check it."""
