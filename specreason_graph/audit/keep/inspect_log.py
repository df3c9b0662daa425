"""Runs as an evaluation log of Inspect; this module is imported only where Inspect is installed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

from inspect_ai.dataset import Sample
from inspect_ai.event import Event, InfoEvent, ModelEvent, SampleInitEvent, SpanBeginEvent, SpanEndEvent
from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalResults, EvalSample, EvalSpec, EvalStats
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    Content,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelOutput,
    ModelUsage,
)
from inspect_ai.tool import ToolCall

from specreason_graph.audit.read.recorded import RecordedRun
from specreason_graph.record.manifest import Turn
from specreason_graph.record.records import Answer, Cost, Step, Usage
from specreason_graph.record.summary import summarise

SOURCE = "specreason"


def make_log(runs: Sequence[RecordedRun]) -> EvalLog:
    """Make one log of all runs, with one sample each; its status is ``cancelled`` when a run is not finished."""
    seen: Counter[str] = Counter()
    samples = []
    for run in runs:
        seen[run.run] += 1  # Inspect names a sample by id and epoch; a run with two branches has one id twice
        samples.append(make_sample(run, seen[run.run]))
    models = {role: sorted({run.typed_manifest.engines[role].model for run in runs}) for role in ("base", "draft")}
    usage: dict[str, ModelUsage] = {}
    for sample in samples:
        _add(usage, sample.model_usage)
    finished = [run for run in runs if run.finished]
    started = min(str(sample.started_at or "") for sample in samples)
    return EvalLog(
        status="success" if len(finished) == len(runs) else "cancelled",
        eval=EvalSpec(
            created=started or runs[0].updated, task=SOURCE, model=", ".join(models["base"]), config=EvalConfig(),
            dataset=EvalDataset(name=runs[0].thread_id, samples=len(runs), sample_ids=[run.run for run in runs]),
            packages={"specreason_graph": version("specreason-graph")}, metadata={"draft_model": models["draft"]},
        ),
        results=EvalResults(total_samples=len(runs), completed_samples=len(finished)),
        stats=EvalStats(started_at=started, completed_at=max(run.updated for run in runs), model_usage=usage),
        samples=samples,
    )  # fmt: skip


def make_sample(run: RecordedRun, epoch: int) -> EvalSample:
    """Make the sample of a run: conversation and reply, model usage, and each step in the transcript."""
    asked = [_message(turn) for turn in run.typed_manifest.turns]
    reply = _reply(run)
    summary = summarise(run.steps, run.answer)
    usage: dict[str, ModelUsage] = {}
    roles: dict[str, ModelUsage] = {}
    for cost in summary.costs:
        _add(usage, {run.typed_manifest.engines[cost.engine].model: _tokens(cost.usage)})
        _add(roles, {cost.engine: _tokens(cost.usage)})
    started, ended = run.typed_manifest.started, run.updated
    elapsed = datetime.fromisoformat(ended) - datetime.fromisoformat(started) if started and ended else None
    return EvalSample(
        id=run.run, epoch=epoch, input=run.question if len(asked) == 1 else asked, target="",
        messages=[*asked, reply] if reply else asked, output=_output(run, reply), metadata=_metadata(run),
        events=list(Transcript(run, asked).events()), model_usage=usage, role_usage=roles,
        started_at=started, completed_at=ended if run.finished else None,
        total_time=elapsed.total_seconds() if elapsed else None, working_time=summary.seconds,
    )  # fmt: skip


class Transcript:
    """The events of a run, at the times of its engine calls."""

    def __init__(self, run: RecordedRun, asked: list[ChatMessage]) -> None:
        self._run, self._asked = run, asked
        manifest = run.typed_manifest
        self._engines, self._config = manifest.engines, manifest.config
        self._now = datetime.fromisoformat(manifest.started or run.updated)
        self._worked = 0.0

    def events(self) -> Iterator[Event]:
        """Yield one span per step and one for the answer, with the model calls and the decision inside."""
        sample = Sample(input=self._run.question, id=self._run.run)
        yield SampleInitEvent(sample=sample, **self._clock())
        for step in self._run.steps:
            yield from self._span(f"step {step.index + 1}", list(self._step(step)))
        if self._run.answer:
            yield from self._span("answer", [self._written(self._run.answer)])

    def _span(self, name: str, inside: list[Any]) -> Iterator[Event]:
        span = f"{self._run.run}-{name.replace(' ', '-')}"
        first = {"timestamp": inside[0].timestamp, "working_start": inside[0].working_start}
        yield SpanBeginEvent(id=span, span_id=span, name=name, type=SOURCE, **first)
        yield from (event.model_copy(update={"span_id": span}) for event in inside)
        yield SpanEndEvent(id=span, span_id=span, **self._clock())

    def _step(self, step: Step) -> Iterator[Event]:
        for cost in sorted(step.costs, key=lambda cost: cost.usage.started or 0.0):
            yield self._call(cost, *self._choice_of(cost, step), step.index)
        evidence = step.dump()
        kept = ("index", "author", "ending", "score", "decision", "discarded", "tokens_left", "hash")
        yield InfoEvent(source=SOURCE, data={name: evidence[name] for name in kept}, **self._clock())

    @staticmethod
    def _choice_of(cost: Cost, step: Step) -> tuple[ChatCompletionChoice, int | None]:
        """Return the output of a call for a step, and its seed where it was sampled."""
        if cost.wasted:  # the record of wasted speculative work has its cost, but not its text
            return _choice(ChatMessageAssistant(content=""), "unknown"), None
        if cost.purpose == "score":  # the whole evidence follows in the step's info event
            digit = step.score.greedy if step.score else None
            return _choice(ChatMessageAssistant(content="" if digit is None else str(digit)), "max_tokens"), None
        if cost.purpose == "probe":
            return _choice(ChatMessageAssistant(content=step.probe.text if step.probe else ""), "max_tokens"), None
        written = (step.discarded or step) if cost.purpose == "draft" else step
        ended = "max_tokens" if written.ending == "length" else "stop"
        return _choice(ChatMessageAssistant(content=written.text), ended), written.seed

    def _written(self, answer: Answer) -> Event:
        cost = Cost(engine=answer.author, purpose="answer", usage=answer.usage)
        return self._call(cost, _choice(_assistant([], answer), _ended(answer)), answer.seed, len(self._run.steps))

    def _call(self, cost: Cost, choice: ChatCompletionChoice, seed: int | None, steps_before: int) -> Event:
        """Return the event of one model call."""
        # The input is the conversation only: with all steps before it, the log would grow with their square.
        model, usage = self._engines[cost.engine].model, cost.usage
        if usage.started is not None:
            self._now = datetime.fromtimestamp(usage.started, UTC)
        clock = self._clock()
        self._now += timedelta(seconds=usage.seconds)
        self._worked += usage.seconds
        sampling = {"temperature": self._config.temperature, "top_p": self._config.top_p} if seed is not None else {}
        return ModelEvent(
            model=model, role=cost.engine, input=self._asked, tools=[], tool_choice="none",
            config=GenerateConfig(seed=seed, **sampling), completed=self._now, working_time=usage.seconds,
            output=ModelOutput(model=model, choices=[choice], usage=_tokens(usage), time=usage.seconds),
            metadata={
                "purpose": cost.purpose, "calls": usage.calls, "steps_before": steps_before, "wasted": cost.wasted,
            },
            **clock,
        )  # fmt: skip

    def _clock(self) -> dict[str, Any]:
        return {"timestamp": self._now, "working_start": self._worked}


def _message(turn: Turn) -> ChatMessage:
    calls = [ToolCall(id=call.id, function=call.name, arguments=call.arguments) for call in turn.calls]
    match turn.speaker:
        case "system":
            return ChatMessageSystem(content=turn.text)
        case "assistant":
            return ChatMessageAssistant(content=turn.text, tool_calls=calls or None)
        case "tool":
            return ChatMessageTool(content=turn.text, tool_call_id=turn.call_id, function=turn.name)
    return ChatMessageUser(content=turn.text)


def _reply(run: RecordedRun) -> ChatMessageAssistant | None:
    """Return the committed thinking, one block per step, and the answer; None where there is neither."""
    return _assistant(run.steps, run.answer) if run.steps or run.answer else None


def _assistant(steps: Sequence[Step], answer: Answer | None) -> ChatMessageAssistant:
    blocks: list[Content] = [ContentReasoning(reasoning=step.text) for step in steps if step.text]
    calls = []
    if answer:
        blocks.append(ContentText(text=answer.text))
        calls = [ToolCall(id=c["id"] or "", function=c["name"], arguments=c["args"]) for c in answer.tool_calls]
    return ChatMessageAssistant(content=blocks, tool_calls=calls or None, source="generate")


def _output(run: RecordedRun, reply: ChatMessageAssistant | None) -> ModelOutput:
    """Return the answer as the output of the model that wrote it; an empty output while there is none."""
    if run.answer is None or reply is None:
        return ModelOutput()
    return ModelOutput(
        model=run.typed_manifest.engines[run.answer.author].model, usage=_tokens(run.answer.usage),
        choices=[_choice(reply, _ended(run.answer))], time=run.answer.usage.seconds,
    )  # fmt: skip


def _choice(message: ChatMessageAssistant, ended: Any) -> ChatCompletionChoice:
    return ChatCompletionChoice(message=message, stop_reason=ended)


def _ended(answer: Answer) -> str:
    return "tool_calls" if answer.tool_calls else "stop" if answer.complete else "max_tokens"


def _metadata(run: RecordedRun) -> dict[str, Any]:
    manifest, summary = run.manifest, summarise(run.steps, run.answer)
    return {
        "thread_id": run.thread_id, "namespace": run.namespace, "run": run.run, "head": run.head,
        "finished": run.finished, "stop_reason": run.stop_reason, "steps": summary.steps,
        "proposals": summary.proposals, "accepted": summary.accepted, "acceptance": summary.acceptance,
        "config": manifest["config"], "engines": manifest["engines"], "forked_from": manifest.get("forked_from"),
        "signature": run.answer.signature.dump() if run.answer and run.answer.signature else None,
    }  # fmt: skip


def _tokens(usage: Usage) -> ModelUsage:
    # Inspect counts cached prompt tokens apart from input tokens.
    return ModelUsage(
        input_tokens=usage.prompt_tokens - usage.cached_tokens, output_tokens=usage.generated_tokens,
        total_tokens=usage.prompt_tokens + usage.generated_tokens, input_tokens_cache_read=usage.cached_tokens,
    )  # fmt: skip


def _add(totals: dict[str, ModelUsage], more: dict[str, ModelUsage]) -> None:
    for name, usage in more.items():
        totals[name] = totals[name] + usage if name in totals else usage
