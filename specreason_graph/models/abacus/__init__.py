"""The reference pair: two small models that solve arithmetic word problems, one well and one half."""

from pathlib import Path

FOLDER = Path(__file__).parent
"""Holds ``base`` and ``draft``, each a Hugging Face model folder."""
