"""A chain: a prompt, the chat model, a parser. The thinking is streamed step by step, the answer word by word."""

import re

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda

from specreason_graph import ChatSpecReason, open_pair

PROMPT = ChatPromptTemplate.from_template(
    "{name} has {boxes} boxes with {each} coins in each box. {name} sells {sold} coins. "
    "How many coins does {name} have now?"
)
ASKED = {"name": "Zoe", "boxes": 25, "each": 18, "sold": 65}


def main() -> int:
    """Ask once as a stream and once for the number; the number."""
    with open_pair("abacus-base", "abacus-draft") as pair:
        chat = ChatSpecReason(pair, threshold=7, temperature=0)
        for chunk in (PROMPT | chat).stream(ASKED):
            for block in chunk.content_blocks:
                print(block.get("reasoning") or block.get("text"), end="", flush=True)
        print()
        number = PROMPT | chat | StrOutputParser() | RunnableLambda(lambda text: int(re.findall(r"\d+", text)[-1]))
        return number.invoke(ASKED)


if __name__ == "__main__":
    print(main())
