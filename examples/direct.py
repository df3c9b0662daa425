"""Run the loop on the reference pair, keep its checkpoints, and look at the evidence of each step."""

from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from specreason_graph import Step, create_specreason, open_pair

QUESTION = "Zoe has 25 boxes with 18 coins in each box. Zoe sells 65 coins. How many coins does Zoe have now?"


def main() -> str:
    """Solve one problem; the answer."""
    with open_pair("abacus-base", "abacus-draft") as pair:
        graph = create_specreason(pair, threshold=7, seed=1).compile(checkpointer=InMemorySaver())
        config: Any = {"configurable": {"thread_id": "zoe"}}
        outcome = graph.invoke({"question": QUESTION}, config)
    for plain in outcome["trace"]:
        step = Step.load(plain)
        print(f"{step.author:5} {step.decision.reason:24} {step.decision.number or 0:.2f}  {step.text.strip()}")
    print(outcome["stop_reason"], outcome["answer"])
    return str(outcome["answer"])


if __name__ == "__main__":
    main()
