"""A process reward model rates the step (RSD, arXiv 2501.19324)."""

from __future__ import annotations

import time
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from specreason_graph.engines import require
from specreason_graph.engines.options import CallOptions
from specreason_graph.engines.redaction import public_url
from specreason_graph.errors import EngineAnswerError
from specreason_graph.judging.asking import Asking, Measured, kept
from specreason_graph.prompting.engine_prompts import BLANK_LINE
from specreason_graph.record.records import Score, Usage
from specreason_graph.strategy import Judge, register


@register
class RewardJudge(Judge):
    """What a process reward model gives the step, over HTTP: the base is not asked.

    The caller serves the model, as with ``vllm serve Qwen/Qwen2.5-Math-PRM-7B --runner pooling``. It is asked about
    question and steps with its own chat template. Its key is read from SPECREASON_REWARD_KEY and never recorded.
    """

    needs: ClassVar = ("reward",)
    trials: ClassVar = tuple(twentieth / 20 for twentieth in range(21))
    kind: Literal["reward"] = "reward"
    """Names the judge."""
    threshold: Annotated[float, Field(allow_inf_nan=False)] = 0.7
    """Reward from which a proposal is accepted."""
    url: Annotated[str, Field(min_length=1)]
    """Where the model is served, without user name, password and query: settings are recorded."""
    model: str | None = None
    """Name under which it is served; None where the server has only one."""
    endpoint: Literal["pooling", "classify"] = "pooling"
    """``pooling`` gives a row of classes for each step, ``classify`` one row for all."""
    step_end: Annotated[str, Field(min_length=1)] = "<extra_0>"
    """What the model is trained to see behind each step; taken out of the steps' own text."""
    label: int = -1
    """Which class of a row is the reward; -1 is the last."""
    timeout_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    """Longest that one call may take, in seconds."""
    retry_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    """How long a failed call is made again while the server is busy or gone."""

    @field_validator("url")
    @classmethod
    def _open(cls, url: str) -> str:
        if url != public_url(url):
            raise ValueError("user name, password and query would be recorded; put the key in SPECREASON_REWARD_KEY")
        return url

    async def measure(self, asking: Asking) -> Measured:
        """The classes of the step. The seconds count as those of a score, the reward model's tokens are not counted."""
        require("reward", "served", "httpx")
        from specreason_graph.engines.server.rewards import NAME, reward  # httpx is an extra

        steps = [step.replace(self.step_end, "").strip() for step in asking.thinking.split(BLANK_LINE)]
        steps = [*filter(None, steps), asking.proposal.text.replace(self.step_end, "").strip()]
        reply = "".join(step + self.step_end for step in steps)
        options = CallOptions(timeout_seconds=self.timeout_seconds, retry_seconds=self.retry_seconds)
        begun, clock = time.time(), time.perf_counter()
        row = await reward(self.url, self.endpoint, self.model, asking.question, reply, options)
        if not -len(row) <= self.label < len(row):
            raise EngineAnswerError(f"{NAME} gave {len(row)} classes, and label = {self.label}", engine=NAME)
        return Measured(kept(row), Usage(seconds=time.perf_counter() - clock, started=begun))

    def number(self, score: Score) -> float:
        """The reward."""
        return float(score.found["reward"][self.label])
