"""A human settles the steps that the base model finds doubtful."""

from collections.abc import Callable
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from specreason_graph import Step, create_specreason, open_pair

QUESTION = (
    "Zoe has 25 boxes with 18 coins in each box. Zoe sells 65 coins. Zoe buys 66 more coins. Zoe buys 13 bags with 25 "
    "coins in each bag. Leo has 60 coins. How many coins do Zoe and Leo have together?"
)


def ask(asked: Any) -> Any:
    """Show the step, and read the verdict from the keyboard."""
    print(
        f"\nbefore:   {asked['before'].strip()}\nproposal: {asked['proposal'].strip()}   {asked['score']['mean']:.1f}"
    )
    return input("accept, reject, or another text for the step: ").strip() or "accept"


def main(human: Callable[[Any], Any] = ask) -> list[Step]:
    """Solve one problem with a human for all scores up to 6; the steps."""
    with open_pair("abacus-base", "abacus-draft") as pair:
        graph = create_specreason(pair, review={"low": 0, "high": 6}).compile(checkpointer=InMemorySaver())
        config: Any = {"configurable": {"thread_id": "zoe"}}
        outcome = graph.invoke({"question": QUESTION}, config)
        while "__interrupt__" in outcome:
            said = human(outcome["__interrupt__"][0].value)
            edit = said not in ("accept", "reject")
            reply = {"verdict": "edit", "text": said, "reviewer": "me"} if edit else {"verdict": said, "reviewer": "me"}
            outcome = graph.invoke(Command(resume=reply), config)
    steps = [Step.load(step) for step in outcome["trace"]]
    for step in steps:
        print(f"{step.author:5} {step.decision.reason:24} {step.text.strip()}")
    print(outcome["answer"])
    return steps


if __name__ == "__main__":
    main()
