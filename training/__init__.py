"""How the abacus pair is made: ``python -m training make`` from nothing, ``python -m training evaluate`` to check it."""
