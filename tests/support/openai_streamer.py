"""A client in a process of its own: ``python openai_streamer.py URL MODEL QUESTION [stream]`` prints what it gets."""

from __future__ import annotations

import sys

from openai import OpenAI


def main(url: str, model: str, question: str, *stream: str) -> None:
    """Print a line at once, and one a piece."""
    with OpenAI(base_url=url, api_key="none") as client:
        print("asking", flush=True)  # noqa: T201 - read by the test
        reply = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], stream=bool(stream)
        )
        for piece in reply if stream else ():
            print(piece, flush=True)  # noqa: T201 - read by the test


if __name__ == "__main__":
    main(*sys.argv[1:])
