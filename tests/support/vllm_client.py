"""An object in the place of vLLM's client, so that an engine of vLLM works where vLLM is not installed."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from specreason_graph.engines import locate
from specreason_graph.engines.vllm import VLLMEngine, engine


class Client:
    """Answers each request with the same outputs, one after the other."""

    errored = False
    output_handler = None

    def __init__(self, outputs: Iterable[Any]) -> None:
        self.outputs = list(outputs)

    async def generate(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        for output in self.outputs:
            yield output

    def shutdown(self, seconds: float) -> None:
        self.outputs = []


def engine_on(client: Client, monkeypatch: pytest.MonkeyPatch) -> VLLMEngine:
    """An engine that starts ``client``; what it imports of vLLM are plain objects."""
    modules: dict[str, dict[str, Any]] = {
        "vllm": {"SamplingParams": SimpleNamespace, "__version__": "0", "__path__": []},
        "vllm.inputs": {"tokens_input": list},
        "vllm.lora": {"__path__": []},
        "vllm.lora.request": {"LoRARequest": SimpleNamespace},
        "vllm.platforms": {"current_platform": SimpleNamespace(get_device_name=lambda: "none")},
        "vllm.sampling_params": {
            "RequestOutputKind": SimpleNamespace(DELTA="delta", FINAL_ONLY="final"),
            "StructuredOutputsParams": SimpleNamespace,
        },
    }
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(engine, "load", lambda: None)
    monkeypatch.setattr(engine, "start", lambda *_: client)
    monkeypatch.setattr(engine, "on_cpu", lambda: True)  # they remember what they find
    monkeypatch.setattr(engine, "chosen_dtype", lambda *_: "float32")
    return VLLMEngine(locate("abacus-draft"))
