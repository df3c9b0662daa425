"""An agent each of whose turns is kept, step by step, so that it can be resumed and audited.

    python examples/audited_agent.py shop "Can we send 20 pens?"    # python examples/audited_agent.py shop goes on
    specreason audit list --db agent.sqlite

The engines are scripted. With real models it is ``open_pair("Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B")``, and all else stays.
"""

import sys
from typing import Any

from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from specreason_graph import EnginePair, create_specreason, read_event
from specreason_graph.engines.fake import FakeEngine

CALL = '<tool_call>\n{"name": "stock", "arguments": {"item": "pens"}}\n</tool_call>'
DRAFT = ["The stock is not in the question, so I look it up.\n\n", "</think>", "There are 14.\n\n", "</think>"]
BASE = ["</think>", CALL, "There are 14 pens, and 20 are asked for.\n\n", "</think>", "No: 6 pens are missing."]


@tool
def stock(item: str) -> int:
    """How many of an item are there."""
    return {"pens": 14}.get(item, 0)


def main(thread: str, question: str | None = None, database: str = "agent.sqlite") -> str:
    """Ask the agent, or go on with what was interrupted; its answer."""
    place: Any = {"configurable": {"thread_id": thread}}
    pair = EnginePair(draft=FakeEngine(DRAFT), base=FakeEngine(BASE, scores=[9, 3]))
    with pair, SqliteSaver.from_conn_string(database) as saver:
        graph = StateGraph(MessagesState)
        graph.add_node("think", create_specreason(pair, tools=[convert_to_openai_tool(stock)]).compile())
        graph.add_node("tools", ToolNode([stock]))
        graph.add_edge(START, "think")
        graph.add_conditional_edges("think", tools_condition)
        graph.add_edge("tools", "think")
        agent = graph.compile(checkpointer=saver)
        asked: Any = {"messages": [("user", question)]} if question else None
        for _, part in agent.stream(asked, place, stream_mode="custom", subgraphs=True, durability="sync"):
            event = read_event(part)
            if event and event.event in ("accepted", "regenerated"):
                print(f"{event.step.author:6} {event.step.text.strip()}")
        answer = str(agent.get_state(place).values["messages"][-1].text)
    print(answer)
    return answer


if __name__ == "__main__":
    main(*sys.argv[1:])
