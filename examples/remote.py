"""The loop behind `langgraph dev`: started there, shown here while it works.

Start the server in the project's folder with ``langgraph dev --no-browser``, and give the address that it prints.
"""

import asyncio
import sys

from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk import get_client

from specreason_graph.cli.live_view import LiveView
from specreason_graph.record.events import Finished, read_event

QUESTION = "Zoe has 25 boxes with 18 coins in each box. Zoe sells 65 coins. How many coins does Zoe have now?"


async def main(url: str = "http://127.0.0.1:2024") -> str:
    """Ask, show each step as it is settled; the answer."""
    view, answer = LiveView(), ""
    async with get_client(url=url) as client:
        graph = RemoteGraph("specreason", client=client)
        async for part in graph.astream({"question": QUESTION}, stream_mode="custom"):
            event = read_event(part)
            view.show(event)
            if isinstance(event, Finished):
                answer = event.answer.text
    return answer


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
