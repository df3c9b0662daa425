"""The memory plan by arithmetic: known models on known devices."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from specreason_graph import open_pair
from specreason_graph.cli.diagnosis import memory
from specreason_graph.engines import machine
from specreason_graph.engines.options import VLLMOptions
from specreason_graph.engines.vllm import devices
from specreason_graph.engines.vllm.memory import (
    GIB,
    Device,
    Footprint,
    MemoryPlan,
    footprint,
    plan_memory,
    weight_bytes,
)
from specreason_graph.errors import ConfigError
from specreason_graph.models.abacus import FOLDER

QWQ_32B = SimpleNamespace(
    hidden_size=5120, num_hidden_layers=64, num_attention_heads=40, num_key_value_heads=8, head_dim=128,
    intermediate_size=27648, vocab_size=152_064, max_position_embeddings=40_960,
)  # fmt: skip
R1_70B = SimpleNamespace(
    hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8, head_dim=128,
    intermediate_size=28672, vocab_size=128_256, max_position_embeddings=131_072,
)  # fmt: skip
R1_1_5B = SimpleNamespace(
    hidden_size=1536, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2, head_dim=128,
    intermediate_size=8960, vocab_size=151_936, max_position_embeddings=131_072,
)  # fmt: skip


def gpu(gib: int) -> Device:
    return Device(kind="cuda", total=gib * GIB, free=gib * GIB - GIB // 2)


def print_of(config: Any, options: VLLMOptions) -> Footprint:
    return footprint(config, weight_bytes("not/here", config, "bfloat16"), options, "bfloat16")


def plan(base: Any, draft: Any, device: Device, **base_settings: Any) -> MemoryPlan:
    options = VLLMOptions(**base_settings)
    return plan_memory(print_of(base, options), print_of(draft, VLLMOptions()), device, options)


def test_sizes_of_known_models() -> None:
    assert weight_bytes("not/here", QWQ_32B, "bfloat16") == pytest.approx(65.5e9, rel=0.01)
    assert weight_bytes("not/here", R1_70B, "bfloat16") == pytest.approx(141e9, rel=0.01)
    assert weight_bytes("not/here", R1_1_5B, "bfloat16") == pytest.approx(3.55e9, rel=0.01)
    assert print_of(QWQ_32B, VLLMOptions()).token == 262_144
    assert print_of(QWQ_32B, VLLMOptions(tensor_parallel=2)).token == 131_072
    assert print_of(R1_1_5B, VLLMOptions()).token == 28_672


@pytest.mark.parametrize(
    ("gib", "settings", "tokens"),
    [(80, {}, 30_000), (141, {}, 240_000), (48, {"tensor_parallel": 2}, 60_000)],
)
def test_qwq_and_a_small_draft_fit(gib: int, settings: dict[str, int], tokens: int) -> None:
    device = gpu(gib)
    found = plan(QWQ_32B, R1_1_5B, device, **settings)
    used = sum(share.weights + share.overhead + share.kv_bytes for share in (found.base, found.draft))
    assert used <= device.free - 0.04 * device.total
    assert used >= 0.9 * device.free or found.base.tokens > 64 * found.base.context
    assert found.base.tokens == found.draft.tokens == pytest.approx(tokens, rel=0.1)
    assert found.base.utilization + found.draft.utilization < 1
    assert found.base.context == min(40_960, (found.base.tokens - 32) // 256 * 256)
    assert found.base.kv_bytes == found.base.tokens * (131_072 if settings else 262_144)


@pytest.mark.parametrize(
    ("base", "gib", "settings"),
    [(QWQ_32B, 24, {}), (R1_70B, 80, {}), (R1_70B, 141, {}), (R1_70B, 48, {"tensor_parallel": 2})],
)
def test_a_pair_that_does_not_fit_is_refused_with_figures(base: Any, gib: int, settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"does not fit: base [\d.]+ \+ [\d.]+, draft .* GiB may be used"):
        plan(base, R1_1_5B, gpu(gib), **settings)


def test_70b_over_four_devices_fits() -> None:
    assert plan(R1_70B, R1_1_5B, gpu(80), tensor_parallel=4).base.context > 40_000


def test_a_context_that_does_not_fit_is_refused_with_the_longest_that_does() -> None:
    found = plan(QWQ_32B, R1_1_5B, gpu(80))
    with pytest.raises(ConfigError, match=rf"fewer than one sequence of 40,000; .*at most {found.base.tokens - 32:,}"):
        plan(QWQ_32B, R1_1_5B, gpu(80), context=40_000)
    assert plan(QWQ_32B, R1_1_5B, gpu(80), context=16_384).base.context == 16_384


def test_what_is_asked_for_is_given() -> None:
    found = plan(QWQ_32B, R1_1_5B, gpu(80), kv_bytes=4 * GIB, utilization=0.8)
    assert found.base.kv_bytes == 4 * GIB
    assert found.base.utilization == 0.8
    assert found.base.tokens == 4 * GIB // 262_144
    assert found.draft.tokens > 100_000
    limited = plan(R1_1_5B, R1_1_5B, gpu(80), utilization=0.1)
    assert limited.base.weights + limited.base.overhead + limited.base.kv_bytes <= 8 * GIB
    assert limited.draft.kv_bytes > 3 * limited.base.kv_bytes


def test_the_reference_pair_takes_little_of_a_machine() -> None:
    from specreason_graph.engines.vllm.memory import model_footprint

    base, draft = [model_footprint(str(FOLDER / role), VLLMOptions(), "float32") for role in ("base", "draft")]
    found = plan_memory(base, draft, Device(kind="cpu", total=24 * GIB, free=20 * GIB))
    assert found.base.tokens == found.draft.tokens == 64 * 1024 + 32
    assert found.base.kv_bytes == found.base.tokens * 2 * 16 * 4 * 32 * 4
    assert 2 * 7e6 < base.weights < 2 * 8e6
    with pytest.raises(ConfigError, match="does not fit"):
        plan_memory(base, draft, Device(kind="cpu", total=4 * GIB, free=GIB + GIB // 2))


def test_half_of_a_machine_stays_free_unless_the_pair_needs_more() -> None:
    """A pair of 1.5B and 0.5B in float32 takes 10.5 GiB, and has to run where 20 are free."""
    base = Footprint(weights=int(6.6 * GIB), activations=0, token=57_344, context=32_768)
    draft = Footprint(weights=int(2.3 * GIB), activations=0, token=24_576, context=32_768)
    for free, least, most in ((64, 4096, 64 * 32_768), (20, 4096, 4096 + 64)):
        found = plan_memory(base, draft, Device(kind="cpu", total=64 * GIB, free=free * GIB))
        taken = sum(share.weights + share.overhead + share.kv_bytes for share in (found.base, found.draft))
        assert least <= found.base.tokens == found.draft.tokens <= most
        assert taken <= max(0.5 * free, 10.5 + 0.4) * GIB
    asked = VLLMOptions(kv_bytes=2 * GIB, context=2048)
    found = plan_memory(base, draft, Device(kind="cpu", total=64 * GIB, free=20 * GIB), asked, asked)
    assert found.base.context == found.draft.context == 2048
    with pytest.raises(ConfigError, match=r"does not fit.* 10\.4 GiB a device, and 9\.9 GiB may be used"):
        plan_memory(base, draft, Device(kind="cpu", total=64 * GIB, free=11 * GIB))


def test_files_that_were_read_are_not_taken_for_memory_in_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "CGROUP", str(tmp_path))
    (tmp_path / "memory.max").write_text(f"{4 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{3 * GIB}\n")
    assert devices.machine_memory().free == GIB
    (tmp_path / "memory.stat").write_text(f"anon {GIB}\ninactive_file {GIB}\nactive_file {GIB // 2}\n")
    assert devices.machine_memory().free == 2 * GIB + GIB // 2


def test_one_engine_for_both_roles_is_counted_once() -> None:
    options = VLLMOptions()
    alone = plan_memory(print_of(R1_1_5B, options), None, gpu(24))
    both = plan_memory(print_of(R1_1_5B, options), print_of(R1_1_5B, options), gpu(24))
    assert alone.draft == alone.base
    assert (len(memory(alone)), len(memory(both))) == (1, 2)
    assert alone.base.tokens > 2 * both.base.tokens


def test_embedded_models_that_do_not_fit_together_are_refused_before_they_are_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, size in {"large": 3 * GIB, "little": GIB}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"dtype": "bfloat16", "max_position_embeddings": 64}')
        with (tmp_path / name / "model.safetensors").open("wb") as weights:
            weights.truncate(size)
    models = str(tmp_path / "large"), str(tmp_path / "little")
    free = 5 * GIB
    monkeypatch.setattr("specreason_graph.engines.transformers.memory.available_memory", lambda: (24 * GIB, free))
    monkeypatch.setattr("specreason_graph.engines.transformers.memory.computes_in", lambda dtype: True)
    with pytest.raises(
        ConfigError, match=r"take about 5\.2 GiB of memory \(.*large 3\.6, .*little 1\.6\), and 5\.0 are"
    ):
        open_pair(*models, device="cpu")
    free = 6 * GIB
    open_pair(*models, device="cpu")
    with pytest.raises(ConfigError, match=r"take about 9\.2 GiB"):
        open_pair(*models, device="cpu", dtype="float32")
    monkeypatch.setattr("specreason_graph.engines.transformers.memory.computes_in", lambda dtype: dtype == "float32")
    with pytest.raises(ConfigError, match=r"take about 9\.2 GiB"):
        open_pair(*models, device="cpu")
