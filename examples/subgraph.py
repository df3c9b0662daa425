"""A planner that cuts a task into questions, thinks about all of them at once, and reports."""

import operator
from typing import Annotated, Any

from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

from specreason_graph import create_specreason, find_runs, open_pair

TASK = """Zoe has 25 boxes with 18 coins in each box. Zoe sells 65 coins. How many coins does Zoe have now?
Leo has 60 pens. Leo buys 13 bags with 25 pens in each bag. How many pens does Leo have now?"""


class Plan(TypedDict, total=False):
    """What the planner keeps."""

    task: str
    answers: Annotated[list[str], operator.add]
    report: str


def main() -> str:
    """Work through the task; the report."""
    saver = InMemorySaver()
    with open_pair("abacus-base", "abacus-draft") as pair:
        loop = create_specreason(pair, seed=1).compile()

        def think(asked: Any) -> Any:
            return {"answers": [loop.invoke(asked)["answer"]]}

        graph = StateGraph(Plan)
        graph.add_node("think", RunnableLambda(think))
        graph.add_node("report", lambda plan: {"report": " ".join(plan["answers"])})
        graph.add_conditional_edges(
            START, lambda plan: [Send("think", {"question": line}) for line in plan["task"].splitlines()], ["think"]
        )
        graph.add_edge("think", "report")
        graph.add_edge("report", END)
        config: Any = {"configurable": {"thread_id": "plan"}}
        outcome = graph.compile(checkpointer=saver).invoke({"task": TASK}, config, durability="sync")
    for run in find_runs(saver, "plan"):
        print(f"{run.stop_reason}: {len(run.steps)} steps, {run.answer}")
    print(outcome["report"])
    return str(outcome["report"])


if __name__ == "__main__":
    main()
