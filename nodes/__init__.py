"""The stages of the loop, one file each. Imported as ``specreason_graph.nodes`` only."""

if not __name__.startswith("specreason_graph."):
    raise ImportError("import specreason_graph.nodes: a second copy of the stages would not be the one the graph uses")

from specreason_graph.nodes.accept import Accept
from specreason_graph.nodes.draft import Draft
from specreason_graph.nodes.finalize import Finalize
from specreason_graph.nodes.prepare import Prepare
from specreason_graph.nodes.regenerate import Regenerate
from specreason_graph.nodes.review import AskHuman
from specreason_graph.nodes.score import ScoreProposal

__all__ = ["Accept", "AskHuman", "Draft", "Finalize", "Prepare", "Regenerate", "ScoreProposal"]
