"""Close the thinking and write the answer; a plain reply is there already, but for a call of a tool at its end."""

from __future__ import annotations

import contextvars
import json
import time
from dataclasses import dataclass
from typing import Any

from langgraph.types import Overwrite

from specreason_graph.engines.base import Completion, Generation, Sampling, continuations
from specreason_graph.errors import EngineError
from specreason_graph.lookahead.lookahead import Lookahead
from specreason_graph.nodes.commit import costs_of
from specreason_graph.nodes.message_stream import MessageStream
from specreason_graph.nodes.stage import Stage, emit, is_nested
from specreason_graph.policies.deadlines import answer_tokens
from specreason_graph.policies.end_of_thinking import token_budget
from specreason_graph.policies.sampling import sampling_of
from specreason_graph.policies.seeds import call_seed
from specreason_graph.prompting.answer_stream import AnswerStream, before_stop, plain_reply, trimmed
from specreason_graph.prompting.engine_prompts import EnginePrompts
from specreason_graph.prompting.messages import reply_message
from specreason_graph.prompting.tool_calls import answer_schema, read_reply
from specreason_graph.prompting.tool_formats import ToolFormat
from specreason_graph.record.channels import converse
from specreason_graph.record.events import AnswerToken, Finished
from specreason_graph.record.progress import Pending, Progress, totals_of
from specreason_graph.record.records import CLOSING, Answer, Engine, Step, Unfinished, Usage
from specreason_graph.record.seal import hash_of_messages, head_of, seal_answer
from specreason_graph.record.state import State
from specreason_graph.record.summary import summarise


@dataclass(frozen=True)
class Plan:
    """How the answer is asked for."""

    role: Engine
    """Who writes it."""
    form: ToolFormat | None
    """How it may call tools."""
    start: str
    """What it begins with: the plain reply so far, or what forces a call."""
    prompt: list[int]
    """The thinking, closed, and the start."""
    sampling: Sampling
    """How it is written."""
    writes: bool
    """Whether there is something to write: a plain reply is whole, unless it ends with the beginning of a call."""


class Finalize(Stage):
    """Writes the answer; a thinking that a budget ended is closed by force first."""

    async def __call__(self, state: State, lookahead: Lookahead, /) -> dict[str, Any]:
        """Set the answer, the stop reason, and what belongs to them."""
        lookahead.stay()
        plan = self._plan(state, lookahead, self._author(state, lookahead))
        message = MessageStream(state)
        stream, left = self._stream(plan, state, message), self._left_over(state, lookahead)
        try:
            completion = await self._written(plan, lookahead, stream) if plan.writes else None
        except EngineError:  # the draft has failed while it answered: the base does, unless something was told already
            told = stream.has_emitted and not state["trace"]
            if (
                plan.role == "base"
                or self.pair.draft is self.pair.base
                or told
                or not self.config.continue_without_draft
            ):
                raise
            plan = self._plan(state, lookahead, "base")
            stream = self._stream(plan, state, message)
            completion = await self._written(plan, lookahead, stream)
        prompts = self.sampler.prompts.of(plan.role)
        self.registry.finished(len(state["trace"]))
        fields = self._answer(plan, prompts, completion.generations[0] if completion else None, state) | left
        usage = completion.usage if completion else Usage()
        answer = Answer(author=plan.role, seed=plan.sampling.seed, usage=usage, **fields)
        stream.finish(answer.text)
        return self._outcome(state, answer, message)

    def _stream(self, plan: Plan, state: State, message: MessageStream) -> AnswerStream:
        context = contextvars.copy_context()  # the engine's thread knows nothing of this run

        def send(piece: str, whole: str) -> None:
            emit(AnswerToken(text=piece))
            message.text(whole, state["trace"])

        return AnswerStream(
            self.sampler.prompts.of(plan.role).vocabulary, lambda *text: context.run(send, *text),
            self.config.stop, plan.sampling.stop_token_ids, form=plan.form, start=plan.start,
            emitted=self.sampler.prompts.is_plain and bool(state["trace"]),
        )  # fmt: skip

    async def _written(self, plan: Plan, lookahead: Lookahead, stream: AnswerStream) -> Completion:
        begun = time.perf_counter()
        async with self.pair.slot(plan.role, lookahead.commit_point.priority(lookahead.node)):
            completion = await continuations(self.pair.engine(plan.role), plan.prompt, plan.sampling, stream.token)
        lookahead.estimates.took("answer", time.perf_counter() - begun)
        return completion

    def _left_over(self, state: State, lookahead: Lookahead) -> dict[str, Any]:
        """What is in no step: the one that was cut short, what was wasted, and when the answer was begun."""
        pending, late = Pending.load(state.get("pending") or {}), self.config.deadline_seconds is not None
        fields = {name: getattr(pending, name) for name in Unfinished.model_fields}
        return {
            "unfinished": Unfinished(**fields) if pending.proposal or pending.decision else None,
            "wasted": [*costs_of(pending, wasted=True), *lookahead.end(pending)],
            "begun": lookahead.commit_point.seconds_used if late else None,
            "reserve": lookahead.estimates.answer_seconds if late else None, "change": lookahead.take_change(),
        }  # fmt: skip

    def _plan(self, state: State, lookahead: Lookahead, role: Engine) -> Plan:
        config = self.config
        engine, prompts = self.pair.engine(role), self.sampler.prompts.of(role)
        steps, form, start = state["trace"], prompts.tool_format, prompts.answer_start
        called = bool(steps) and steps[-1]["ending"] == "tool_call"
        if called and form:  # the call is written anew from its first token, whoever began it
            start = form.openings[0]
        cut = state["progress"]["stop_reason"] != "answered" and bool(steps) and not steps[-1]["text"].endswith("\n")
        closing = [*prompts.closing_ids(within_line=cut), *prompts.vocabulary.encode_template(start)]
        prompt = lookahead.node.prompts[role] + closing
        tokens = answer_tokens(config, lookahead.commit_point.seconds_left, lookahead.estimates.token_seconds)
        schema = answer_schema(config.answer_schema or {}, config.tools if form else [])
        is_plain = self.sampler.prompts.is_plain
        if is_plain:  # the call is a part of the reply
            tokens = min(tokens, token_budget(config, is_plain=True) - state["progress"]["thinking_tokens"])
        sampling = Sampling(
            **sampling_of(engine, config), max_tokens=max(1, min(tokens, engine.context - len(prompt))),
            seed=call_seed(self.config.seed, "answer", 0), stop=tuple(config.stop),
            # control tokens that a call is written with must not end the answer
            stop_token_ids=prompts.vocabulary.special_ids - prompts.call_control_ids | prompts.vocabulary.eos_ids,
            json_schema=json.dumps(schema) if schema else None,
        )  # fmt: skip
        said = before_stop(plain_reply(steps), config.stop) if is_plain else ""
        return Plan(
            role=role, form=form, start=said + start, prompt=prompt, sampling=sampling,
            writes=called or not (is_plain and steps),
        )  # fmt: skip

    def _answer(self, plan: Plan, prompts: EnginePrompts, written: Generation | None, state: State) -> dict[str, Any]:
        """The fields of the answer that its tokens decide, and those of the plain reply before it."""
        forced = state["progress"]["stop_reason"] != "answered"
        steps = state["trace"]
        ended = bool(steps) and (steps[-1]["ending"] in CLOSING or plan.start != plain_reply(steps))
        ids, complete = _without_end(written, prompts) if written else ([], ended and not forced)
        text = trimmed(plan.start + before_stop(prompts.vocabulary.decode(ids), self.config.stop))
        fields: dict[str, Any] = {"text": text, "token_ids": ids, "forced_close": forced, "complete": complete}
        if plan.form:
            several, run = self.config.parallel_tool_calls, state["progress"]["run"]
            reply = read_reply(text, plan.form, self.config.tools, run, several=several)
            fields |= {"text": trimmed(reply.text), "tool_calls": reply.calls, "invalid_tool_calls": reply.invalid}
        return fields

    def _outcome(self, state: State, answer: Answer, message: MessageStream) -> dict[str, Any]:
        reason, steps = state["progress"]["stop_reason"], [Step.load(step) for step in state["trace"]]
        summary, said = summarise(steps, answer), {}
        reply = reply_message(state["manifest"], steps, answer, reason, summary)
        if state["manifest"]["asked_by_messages"]:
            said["messages"] = Overwrite([reply]) if is_nested() else [reply]
        if said and state["manifest"].get("conversation"):
            whole = converse([] if is_nested() else state["messages"], [[reply]])
            answer = answer.model_copy(update={"conversation": hash_of_messages(whole)})
        answer = self._sealed(state, answer, reason)
        emit(Finished(answer=answer, stop_reason=reason, summary=summary))
        message.finish(reply, state["trace"])
        return said | {
            "result": answer.dump(), "answer": answer.text, "stop_reason": reason, "trace_summary": summary.dump(),
            "pending": {}, "progress": totals_of(steps, Progress.load(state["progress"])).dump(),
        }  # fmt: skip

    def _sealed(self, state: State, answer: Answer, reason: str) -> Answer:
        """The answer with the hash of the whole ledger, signed where there is a key."""
        sealed = Answer.load(seal_answer(answer.dump(), reason, head_of(state["manifest"], state["trace"])))
        if self.signer is None or sealed.hash is None:
            return sealed
        return sealed.model_copy(update={"signature": self.signer.sign(sealed.hash)})

    def _author(self, state: State, lookahead: Lookahead) -> Engine:
        """Who writes the answer: the base where the one chosen has failed or has no room."""
        chosen = self.config.answer_by
        failed = chosen == "draft" and state["progress"]["draft_failed"]
        return "base" if failed or lookahead.node.tokens_left_on[chosen] < 0 else chosen


def _without_end(written: Generation, prompts: EnginePrompts) -> tuple[list[int], bool]:
    """The tokens without the one that ended them, and whether the model ended the answer itself."""
    if written.finish != "stop_token":
        return written.token_ids, written.finish == "stop_string"
    return written.token_ids[:-1], written.token_ids[-1] in prompts.vocabulary.eos_ids
