"""Seconds a token, measured step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Rate:
    """Seconds a token, the last steps counting most."""

    seconds: float = 0.0
    tokens: float = 0.0
    squares: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Sums of seconds times seconds, seconds times tokens and tokens times tokens of the steps."""

    def add(self, seconds: float, tokens: float) -> None:
        """Take note of a step."""
        self.seconds, self.tokens = self.seconds + seconds, self.tokens + tokens
        ss, st, tt = self.squares
        self.squares = ss + seconds * seconds, st + seconds * tokens, tt + tokens * tokens

    def fade(self, share: float) -> None:
        """Let what is known count for less against what comes."""
        self.seconds, self.tokens = share * self.seconds, share * self.tokens
        ss, st, tt = self.squares
        self.squares = share * ss, share * st, share * tt

    @property
    def per_token(self) -> float | None:
        """The rate; None while nothing is known."""
        return self.seconds / self.tokens if self.tokens else None

    @property
    def error(self) -> float:
        """Standard error of the rate, that of a ratio of sums: large after a few steps that differ much."""
        if not self.per_token:
            return 0.0
        ss, st, tt = self.squares
        return math.sqrt(max(0.0, ss - 2 * self.per_token * st + self.per_token**2 * tt)) / self.tokens
