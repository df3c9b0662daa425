"""How long a forward pass takes: a roofline of weights, cache and operations, or what was measured in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from specreason_graph.planning.descriptions import Hardware, Model, TokenSpeculation


@dataclass(frozen=True)
class Row:
    """One sequence in a pass."""

    tokens: int
    """Tokens that are computed: one while it decodes, more where its prompt is read."""
    context: float
    """Tokens before them, whose cache is read."""


@dataclass(frozen=True)
class PassCosts:
    """The costs of one model on a machine."""

    hardware: Hardware
    """The machine."""
    model: Model
    """The model."""
    speculation: TokenSpeculation | None = None
    """Token-level speculation inside its engine."""
    tells_logprobs: bool = False
    """Whether it tells the log-probability of each token that it writes."""

    @property
    def call_seconds(self) -> float:
        """Seconds of a call besides its passes."""
        measured = self.model.measured.call_seconds
        return self.hardware.call_seconds if measured is None else measured

    def rounds(self, tokens: int) -> int:
        """Passes in which so many tokens are written, the one that reads the prompt included."""
        if self.speculation is None:
            return max(1, tokens)
        return max(1, -int(-tokens // self.speculation.tokens_a_round))

    def seconds(self, batch: Sequence[Row]) -> float:
        """Seconds of one pass over these sequences."""
        telling = len(batch) * self.model.measured.logprobs if self.tells_logprobs else 0.0
        return self._computing(batch) + telling

    def _computing(self, batch: Sequence[Row]) -> float:
        guessed = self.speculation.guessed if self.speculation else 0
        tokens = sum(each.tokens + (guessed if each.tokens == 1 else 0) for each in batch)
        if not self.model.measured.passes:
            return self._roofline(batch, tokens) * self._round_cost
        seconds = _on_lines(self.model.measured.passes, len(batch))
        more = sum(each.tokens for each in batch) - len(batch)
        if self.model.measured.prefill is not None:
            return (seconds + more * self.model.measured.prefill) * self._round_cost
        return (seconds + more * self._token_flops / self._flops) * self._round_cost

    @property
    def _round_cost(self) -> float:
        return self.speculation.round_cost if self.speculation else 1.0

    def _roofline(self, batch: Sequence[Row], tokens: int) -> float:
        """The longer of reading and computing, and what each pass takes besides."""
        read = self._weights_read(tokens) + sum(each.context for each in batch) * self.model.kv_bytes
        reading = read / (self.hardware.bandwidth * self.hardware.bandwidth_efficiency)
        return self.hardware.pass_seconds + max(reading, tokens * self._token_flops / self._flops)

    def _weights_read(self, tokens: int) -> float:
        """Bytes of weights that a pass reads: of a mixture of experts, those that some token is sent to."""
        active = self.model.active or self.model.parameters
        unused = (1 - active / self.model.parameters) ** tokens
        return self.model.size * (1 - unused) if active < self.model.parameters else self.model.size

    @property
    def _token_flops(self) -> float:
        return 2.0 * (self.model.active or self.model.parameters)

    @property
    def _flops(self) -> float:
        return self.hardware.flops * self.hardware.flops_efficiency


def _on_lines(points: Mapping[int, float], at: int) -> float:
    """The value on the lines through some points; beyond the last one the last line goes on."""
    known = sorted(points.items())
    if at <= known[0][0] or len(known) == 1:
        return known[0][1]
    (left, low), (right, high) = next((pair for pair in pairwise(known) if at <= pair[1][0]), (known[-2], known[-1]))
    return low + (high - low) * (at - left) / (right - left)
