"""A judge of one's own: a step is kept if neither model finds any of its tokens unlikely."""

from typing import ClassVar, Literal

from specreason_graph import ChatSpecReason, create_specreason, open_pair
from specreason_graph.record.records import Score
from specreason_graph.strategy import Judge, register

QUESTION = "Zoe has 25 boxes with 18 coins in each box. Zoe sells 65 coins. How many coins does Zoe have now?"


@register
class Cautious(Judge):
    """The lowest log-probability of a token under either model; what is no worse than the threshold is kept."""

    kind: Literal["cautious"] = "cautious"
    needs: ClassVar = ("confidence", "likelihood")
    threshold: float = -2.0

    def number(self, score: Score) -> float:
        """The lowest of all."""
        return min((score.base_logprobs or []) + (score.draft_logprobs or []))


def main() -> str:
    """Ask a graph and a chat model that go by it; the graph's answer."""
    with open_pair("abacus-base", "abacus-draft") as pair:
        outcome = create_specreason(pair, judge="cautious", temperature=0).compile().invoke({"question": QUESTION})
        for step in outcome["trace"]:
            print(f"{step['author']:5} {step['decision']['number']!s:>9.9} {step['text'].strip()}")
        chat = ChatSpecReason(pair, judge=Cautious(threshold=-1.0), temperature=0)
        print(chat.invoke(QUESTION).text)
    return str(outcome["answer"])


if __name__ == "__main__":
    main()
