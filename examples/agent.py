"""An agent with a tool: each of its turns is thought through by both models.

The engines are scripted, so that this runs without a model that can call tools. With real ones it is
``open_pair(base="Qwen/Qwen3-8B", draft="Qwen/Qwen3-0.6B")``, and nothing else changes.
"""

from langchain.agents import create_agent
from langchain_core.tools import tool

from specreason_graph import ChatSpecReason, EnginePair
from specreason_graph.engines.fake import FakeEngine

CALL = '<tool_call>\n{"name": "stock", "arguments": {"item": "pens"}}\n</tool_call>'
DRAFT = ["The stock is not in the question, so I look it up.\n\n", "</think>", "There are 14.\n\n", "</think>"]
BASE = ["</think>", CALL, "There are 14 pens, and 20 are asked for.\n\n", "</think>", "No: 6 pens are missing."]


@tool
def stock(item: str) -> int:
    """How many of an item are there."""
    return {"pens": 14}.get(item, 0)


def main() -> str:
    """Ask the agent; its answer."""
    with EnginePair(draft=FakeEngine(DRAFT), base=FakeEngine(BASE, scores=[9, 3])) as pair:
        agent = create_agent(ChatSpecReason(pair), tools=[stock])
        outcome = agent.invoke({"messages": [{"role": "user", "content": "Can we send 20 pens?"}]})
    for message in outcome["messages"]:
        for block in message.content_blocks:
            said = block.get("reasoning") or block.get("text") or block.get("name")
            print(f"{message.type:6} {block['type']:10} {said}")
    return str(outcome["messages"][-1].text)


if __name__ == "__main__":
    main()
