"""What vLLM's own chat answers, run by itself: ``python own_chat.py MODEL QUESTIONS.json TOKENS`` prints token ids."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCH_COMPILE_DISABLE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}


def main(model: str, questions: str, tokens: str) -> None:
    """Answer the questions of a file, all at once, at temperature 0."""
    from vllm import LLM, SamplingParams

    asked = json.loads(Path(questions).read_text(encoding="utf-8"))
    engine = LLM(
        model=model, dtype="float32", enforce_eager=True, block_size=32, max_num_seqs=24, max_model_len=4096,
        kv_cache_memory_bytes=1 << 30, seed=0, generation_config="vllm",
    )  # fmt: skip
    sampling = SamplingParams(temperature=0, max_tokens=int(tokens))
    replies = engine.chat([[{"role": "user", "content": text}] for text in asked], sampling, use_tqdm=False)
    print(json.dumps([list(reply.outputs[0].token_ids) for reply in replies]), flush=True)  # noqa: T201 - read by the test that runs this
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
