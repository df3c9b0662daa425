"""Figures for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from specreason_graph.record.summary import Summary
from specreason_graph.serving.admission import Admission

SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Bounds of the histograms."""


class Metrics:
    """What a server counts of its requests and runs."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        self._responses = Counter("specreason_responses", "Responses under /v1", ["status"], registry=own)
        self._runs = Counter("specreason_runs", "Runs by how they ended", ["end"], registry=own)
        self._running = Gauge("specreason_running", "Runs that are worked on", registry=own)
        self._waiting = Gauge("specreason_waiting", "Runs that wait for their turn", registry=own)
        self._seconds = Histogram(
            "specreason_run_seconds", "From a request to its whole reply", buckets=SECONDS, registry=own
        )
        self._first = Histogram(
            "specreason_first_piece_seconds", "From a request to the first step or word", buckets=SECONDS, registry=own
        )
        self._steps = Counter(
            "specreason_steps", "Committed steps, as the draft wrote them or by the base", ["author"], registry=own
        )
        self._tokens = Counter(
            "specreason_tokens", "Tokens of finished runs, discarded work included", ["model", "kind"], registry=own
        )

    def watch(self, admission: Admission) -> None:
        """Tell how many runs there are."""
        self._running.set_function(lambda: admission.running)
        self._waiting.set_function(lambda: admission.waiting)

    def response(self, status: int) -> None:
        """Count a response."""
        self._responses.labels(status=str(status)).inc()

    def first(self, seconds: float) -> None:
        """Count how long a client waited for the first piece of a reply."""
        self._first.observe(seconds)

    def ended(self, end: str) -> None:
        """Count a run that has ended."""
        self._runs.labels(end=end).inc()

    def answered(self, summary: Summary, seconds: float) -> None:
        """Count what a finished run took."""
        self._seconds.observe(seconds)
        self._steps.labels(author="draft").inc(summary.accepted)
        self._steps.labels(author="base").inc(summary.steps - summary.accepted)
        for cost in summary.costs:
            tokens = self._tokens.labels
            tokens(model=cost.engine, kind="prompt").inc(cost.usage.prompt_tokens)
            tokens(model=cost.engine, kind="cached").inc(cost.usage.cached_tokens)
            tokens(model=cost.engine, kind="generated").inc(cost.usage.generated_tokens)

    def text(self) -> bytes:
        """All figures, in Prometheus' text format."""
        return generate_latest(self._registry)
