"""What models of many families are prompted with, against what their own chat templates render.

The tokenizers and templates of the families are made by a tool outside this repository, in the folder ``shared`` beside
it or in the one that ``SPECREASON_SHARED`` names; without it these tests are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from specreason_graph import ChatSpecReason, EnginePair, create_specreason, open_pair
from specreason_graph.config import make_config
from specreason_graph.engines.checkpoint import load_vocabulary
from specreason_graph.engines.fake import FakeEngine
from specreason_graph.errors import ConfigError, ModelError
from specreason_graph.langchain.token_counter import TokenCounter
from specreason_graph.prompting.conversation import read_conversation
from specreason_graph.prompting.engine_prompts import EnginePrompts
from specreason_graph.prompting.tool_calls import read_reply
from specreason_graph.runs.launch import Launch
from tests.support.conversations import CONVERSATIONS, Conversation

SHARED = Path(os.environ.get("SPECREASON_SHARED", Path(__file__).parents[2] / "shared"))
TOOL = SHARED / "tools" / "real_vocabularies.py"
NO_TOOL = f"{TOOL} is missing: it makes the tokenizers of real models"
pytestmark = pytest.mark.skipif(not TOOL.exists(), reason=NO_TOOL)
LOOK: Any = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks something up.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["place"],
        },
    },
}
ARGUMENTS = {"place": "Rome", "days": 2}
STEPS = ["I look at it.\n\n", "It is a place:\nin Italy.\n\n"]
PREFILL = "Score: "


@dataclass(frozen=True)
class Family:
    """What is right for one family, read off its model card and template."""

    opening: str | None = None
    """What opens the thinking, the template's own part included; None where the model does not think."""
    closing: str = ""
    """What ends it, up to where the answer begins."""
    calls: bool = True
    """Whether its calls can be read; others are refused by name."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """What its template needs to be told."""
    shows: bool = False
    """Whether its template renders the thinking of the last turn, so that the whole reply can be compared."""
    call_id: str = "abcdefghi"
    """An id of a call as its template takes it."""


THINK = Family("<think>\n", "</think>\n\n")
FAMILIES = {
    "ds-r1-0528": THINK,
    "ds-v3": Family(calls=False),
    "ds-v31": Family("<think>", "</think>", arguments={"thinking": True}),
    "ds-v32": Family("<think>", "</think>", arguments={"thinking": True}, shows=True),
    "gemma3": Family(calls=False),
    "gemma4": Family("<|channel>thought\n", "<channel|>", calls=False, arguments={"enable_thinking": True}),
    "glm45": Family("\n<think>", "</think>\n", shows=True),
    "glm46": Family("\n<think>", "</think>\n", shows=True),
    "gptoss": Family("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    "granite33": Family(calls=False),
    "kimi-k2-thinking": Family("<think>", "</think>", call_id="functions.look:0"),
    "llama31": Family(),
    "llama32": Family(),
    "magistral": Family("[THINK]", "[/THINK]"),
    "minimax-m2": Family("<think>\n", "</think>\n\n", shows=True),
    "mistral-small32": Family(),
    "nemo": Family(),
    "nemotron3-nano": Family("<think>\n", "</think>\n", shows=True),
    "qwen25": Family(),
    "qwen3": Family("<think>\n", "</think>\n\n", shows=True),
    "qwen3-coder": Family(),
    "qwen3-instruct2507": Family(),
    "qwen3-nothink": Family(),
    "qwen3-thinking2507": Family("<think>\n", "</think>\n\n", shows=True),
    "qwen35": Family("<think>\n", "</think>\n\n", shows=True),
    "qwq32b": THINK,
    "r1-distill-llama": Family("<think>\n", "</think>\n\n", calls=False),
    "smollm3": Family("<think>\n", "</think>\n", calls=False),
}


@pytest.fixture(scope="module", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    """A family; all tests of one come together, because its vocabulary takes seconds to load and much memory."""
    return str(request.param)


def of_family(*names: str, given: Sequence[Any]) -> pytest.MarkDecorator:
    """Like `parametrize` with a family as the first of the arguments: its tests come with all others of that family."""
    return pytest.mark.parametrize(("name", *names) if names else "name", given, indirect=["name"], scope="module")


@pytest.fixture(scope="session")
def folder_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Gives the folder of a family; they are made where ``SPECREASON_FAMILIES`` says, or in a new folder."""
    kept = os.environ.get("SPECREASON_FAMILIES")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("families")
    pair = os.environ.get("SPECREASON_REAL_PAIR")

    def make(*names: str) -> str:
        """Make those that are missing; what went wrong."""
        missing = [name for name in names if not (folder / name / "config.json").exists()]
        command = [sys.executable, str(TOOL), str(folder), *missing, *(["--pair", pair] if pair else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False) if missing else None
        return (done.stderr.strip() or "it says nothing").splitlines()[-1] if done and done.returncode else ""

    @cache
    def make_all() -> None:
        params = [getattr(item, "callspec", None) and item.callspec.params for item in request.session.items]  # type: ignore[attr-defined]
        asked = {each["name"] for each in params if each and each.get("name") in FAMILIES}
        make(*sorted(asked if pair else asked - {"qwen25"}))

    @cache
    def made(name: str) -> str:
        if name == "qwen25" and not pair and not (folder / name).exists():
            pytest.skip("SPECREASON_REAL_PAIR names no folder of a real pair, whose tokenizer this family has")
        make_all()  # at once, because the tool takes seconds to start
        if problem := make(name):
            pytest.skip(f"the tokenizer of {name} cannot be had: {problem}")
        return str(folder / name)

    return made


vocabulary_of = lru_cache(maxsize=1)(load_vocabulary)
tokenizer_of = lru_cache(maxsize=1)(AutoTokenizer.from_pretrained)


class Models:
    """A family's prompts, and its own template."""

    def __init__(self, name: str, folder: str, **settings: Any) -> None:
        self.family, self.vocabulary = FAMILIES[name], vocabulary_of(folder)
        self.prompts = EnginePrompts(self.vocabulary, make_config(**settings), name=name)
        self.tokenizer = tokenizer_of(folder)

    def rendered(self, *messages: dict[str, Any], tools: Any = None, asked: bool = True) -> str:
        """What the family's own template renders."""
        return str(
            self.tokenizer.apply_chat_template(
                list(messages), tools=tools, tokenize=False, add_generation_prompt=asked, **self.family.arguments
            )
        )

    def opened(self, text: str) -> str:
        """The text with the thinking opened, where the model thinks."""
        opening = self.family.opening or ""
        return text if not opening or text.endswith(opening) else text + opening

    def decoded(self, ids: list[int]) -> str:
        return self.vocabulary.decode(ids)


@pytest.fixture(scope="module")
def models(name: str, folder_of: Callable[[str], str]) -> Models:
    return Models(name, folder_of(name))


USER = {"role": "user", "content": "What is it? <think>Hm</think> [INST] {x} 3 < 4"}


def turns_of(*messages: Any) -> Any:
    return read_conversation(None, list(messages))


def test_the_prompts_of_draft_and_base(models: Models) -> None:
    head = models.prompts.head_ids(turns_of(HumanMessage(str(USER["content"]))))
    assert models.decoded(head) == models.opened(models.rendered(USER))
    begins = models.tokenizer.bos_token_id
    assert head.count(begins) <= 1
    assert begins not in head[1:]
    thinking = models.prompts.format.tags
    assert (thinking is None) is (models.family.opening is None)


def test_a_question_behind_one_that_got_no_answer(models: Models) -> None:
    lost, asked = HumanMessage("What is the first thing?"), HumanMessage("And the other?")
    before = [HumanMessage("Who?"), AIMessage("I."), AIMessage("And you.")]
    prompt = models.decoded(models.prompts.head_ids(turns_of(*before, lost, asked)))
    places = [prompt.rindex(text) for text in ("Who?", "I.", "And you.", str(lost.content), str(asked.content))]
    assert places == sorted(places)
    alone = models.decoded(models.prompts.head_ids(turns_of(asked)))
    assert prompt.endswith(alone.rpartition(str(asked.content))[2])


def test_the_prompt_of_the_judge(models: Models) -> None:
    said = "It is.\n\n"
    asked = {"role": "user", "content": "Is it?"}
    judge = models.decoded(models.prompts.follow_up_ids("Is it?", PREFILL))
    whole = models.rendered(USER, {"role": "assistant", "content": said.strip()}, asked)
    assert judge == models.opened(whole.rpartition(said.strip())[2]) + PREFILL


def test_the_prompt_of_the_answer(models: Models) -> None:
    family, prompts = models.family, models.prompts
    written = models.decoded(prompts.closing_ids())
    assert written == family.closing
    if not family.shows:
        return
    thought = "".join(STEPS).strip()
    whole = models.rendered(USER, {"role": "assistant", "reasoning_content": thought, "content": "Rome."}, asked=False)
    head = models.decoded(prompts.head_ids(turns_of(HumanMessage(str(USER["content"])))))
    assert whole.startswith(head + thought + models.decoded(prompts.closing_ids(within_line=True)) + "Rome.")


def test_a_conversation(models: Models) -> None:
    kept = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."}, {"role": "user", "content": "Three?"},
    ]  # fmt: skip
    given = [SystemMessage("Be brief."), HumanMessage("One?"), AIMessage("Two."), HumanMessage("Three?")]
    assert models.decoded(models.prompts.head_ids(turns_of(*given))) == models.opened(models.rendered(*kept))


def test_white_space_around_contents_is_the_templates_to_keep_or_to_trim(models: Models) -> None:
    texts = ["  Be brief.\n", "        x = 1\n    y = 2\n\n", "\n    Two. \n", "\tThree? "]
    speakers = ["system", "user", "assistant", "user"]
    kept = [{"role": role, "content": text} for role, text in zip(speakers, texts, strict=True)]
    given = [
        kind(text) for kind, text in zip((SystemMessage, HumanMessage, AIMessage, HumanMessage), texts, strict=True)
    ]
    head = models.prompts.head_ids(turns_of(*given))
    assert models.decoded(head) == models.opened(models.rendered(*kept))


def counted(models: Models, asked: Conversation) -> tuple[int, int]:
    """Tokens of a conversation as they are counted, and as the family's tokenizer has them of its template's text."""
    text = models.opened(models.rendered(*asked.rendered, tools=asked.tools or None))
    return TokenCounter(models.prompts).count(asked.messages), len(
        models.tokenizer.encode(text, add_special_tokens=False)
    )


def test_tokens_are_counted_as_the_template_writes_them(models: Models) -> None:
    for asked in CONVERSATIONS:
        if not asked.tools:
            ours, whole = counted(models, asked)
            # a content may not join with the template's text before or behind it, as in ".\n"
            assert whole <= ours <= whole + 2 * len(asked.rendered)


@of_family("number", given=[("mistral-small32", number) for number in range(len(CONVERSATIONS))])
def test_tokens_of_twenty_conversations_are_the_templates(
    name: str, number: int, folder_of: Callable[[str], str]
) -> None:
    # its template puts control tokens around each content, so that nothing can join with it
    asked = CONVERSATIONS[number]
    ours, whole = counted(Models(name, folder_of(name), tools=asked.tools), asked)
    assert ours == whole


def test_parts_of_conversations_are_counted_whatever_the_template_takes(models: Models) -> None:
    counter = TokenCounter(models.prompts)
    least = counter.count([HumanMessage("x")])
    for asked in (CONVERSATIONS[9], CONVERSATIONS[17], CONVERSATIONS[18]):
        texts = sum(len(counter.ids(str(turn.get("content") or ""))) for turn in asked.rendered)
        for end in range(1, len(asked.messages)):
            first, last = asked.messages[:end], asked.messages[end:]
            for part in (first, last[::-1]):  # as `trim_messages` asks: what it keeps of the end, from the last on
                calls = sum(len(getattr(each, "tool_calls", ())) for each in part)
                assert 0 < counter.count(part) < least + texts + 40 * (len(part) + calls)


def test_names_of_speakers(models: Models) -> None:
    said = [("user", "One?", "ada"), ("assistant", "Two.", "helper"), ("user", "Three?", "bob")]
    kept = [{"role": role, "content": text, "name": name} for role, text, name in said]
    given = [(AIMessage if role == "assistant" else HumanMessage)(text, name=name) for role, text, name in said]
    assert models.decoded(models.prompts.head_ids(turns_of(*given))) == models.opened(models.rendered(*kept))


def call_of(models: Models) -> dict[str, Any]:
    function = {"name": "look", "arguments": ARGUMENTS}
    return {"id": models.family.call_id, "type": "function", "function": function}


def spelled(models: Models) -> str:
    """A call as the family's template writes it, without what is around the turn."""
    call = call_of(models)
    for message in (
        {"content": "", "tool_calls": [call]},
        {
            "content": "",
            "tool_calls": [{**call, "function": {"name": "look", "arguments": '{"place": "Rome", "days": 2}'}}],
        },
    ):
        try:
            text = models.rendered(USER, {"role": "assistant", **message}, tools=[LOOK], asked=False)
        except TypeError:  # it takes arguments as text
            continue
        return text.rpartition(str(USER["content"]))[2]
    raise AssertionError("the template renders no call")


def test_a_call_there_and_back(name: str, folder_of: Callable[[str], str]) -> None:
    models = Models(name, folder_of(name), tools=[LOOK])
    if not models.family.calls:
        with pytest.raises(ModelError, match=f"the chat template of '{name}' writes no tool calls that can be read"):
            _ = models.prompts.tool_format
        return
    form = models.prompts.tool_format
    assert form
    reply = read_reply(spelled(models), form, [LOOK], "run")
    assert [(call["name"], call["args"]) for call in reply.calls] == [("look", ARGUMENTS)]
    assert reply.invalid == []
    found = read_reply('Nothing to look up in {1, 2} or {"place": 3}.', form, [LOOK], "run")
    assert (found.text, found.calls, found.invalid) == ('Nothing to look up in {1, 2} or {"place": 3}.', [], [])
    # and into the next prompt
    call = AIMessage("", tool_calls=[{"name": "look", "args": ARGUMENTS, "id": "abcdefghi"}])
    asked = [HumanMessage(str(USER["content"])), call, ToolMessage("It rains.", tool_call_id="abcdefghi", name="look")]
    head = models.decoded(models.prompts.head_ids(turns_of(*asked)))
    assert "It rains." in head
    assert head.count("Rome") == 1
    again = read_reply(head.rpartition(str(USER["content"]))[2].partition("It rains.")[0], form, [LOOK], "run")
    assert [(call["name"], call["args"]) for call in again.calls] == [("look", ARGUMENTS)]


def test_a_run_of_the_scripted_engine(name: str, folder_of: Callable[[str], str]) -> None:
    family, vocabulary = FAMILIES[name], vocabulary_of(folder_of(name))
    close = {"gptoss": "<|end|>"}.get(name, family.closing.strip())
    bases = [close, "It is Rome.\n\nIn Italy."] if close else ["It is Rome.\n\n", "In Italy."]
    draft = FakeEngine([STEPS[0], STEPS[1], close], name="draft", vocabulary=vocabulary)
    with EnginePair(draft, FakeEngine(bases, [9, 9 if close else 2, 2], name="base", vocabulary=vocabulary)) as pair:
        message = ChatSpecReason(pair).invoke("Where is it?")
    reasoning = [block["reasoning"] for block in message.content_blocks if block["type"] == "reasoning"]
    assert reasoning == (STEPS if close else [])
    assert message.text == ("" if close else STEPS[0]) + "It is Rome.\n\nIn Italy."
    assert message.response_metadata["finish_reason"] == "stop"


def test_reasoning_between_calls_goes_back_where_the_template_takes_it(
    name: str, folder_of: Callable[[str], str]
) -> None:
    models = Models(name, folder_of(name), tools=[LOOK])
    if not models.family.calls:
        pytest.skip("its calls cannot be read")
    call = {"name": "look", "args": ARGUMENTS, "id": "abcdefghi"}
    thought: Any = [{"type": "reasoning", "reasoning": "I had better look.\n\n"}]
    earlier: Any = [{"type": "reasoning", "reasoning": "An earlier thought.\n\n"}, {"type": "text", "text": "Yes?"}]
    asked = [
        HumanMessage("Hello."), AIMessage(earlier), HumanMessage("Where?"), AIMessage(thought, tool_calls=[call]),
        ToolMessage("It rains.", tool_call_id="abcdefghi", name="look"),
    ]  # fmt: skip
    head = models.decoded(models.prompts.head_ids(turns_of(*asked)))
    takes_it = models.family.shows or name in ("gptoss", "magistral", "kimi-k2-thinking")
    assert head.count("I had better look.") == takes_it
    assert "An earlier thought." not in head


SWITCHED = [
    ("qwen3", {"enable_thinking": False}, "none", "<think>\n\n</think>\n\n"),
    ("ds-v31", {"thinking": False}, "none", "</think>"),
    ("glm46", {"enable_thinking": False}, "none", "\n<think></think>"),
    ("granite33", {"thinking": True}, "tags", "<think>\n"),
    ("gptoss", {"reasoning_effort": "high"}, "channels", "<|channel|>analysis<|message|>"),
]  # fmt: skip


@of_family("arguments", "kind", "end", given=SWITCHED)
def test_arguments_of_the_template_are_settings(
    name: str, arguments: Any, kind: str, end: str, folder_of: Callable[[str], str]
) -> None:
    prompts = EnginePrompts(vocabulary_of(folder_of(name)), make_config(template={"base": arguments}))
    text = prompts.vocabulary.decode(prompts.question_ids("What is it?"))
    assert (prompts.format.kind, text.endswith(end)) == (kind, True)
    assert prompts.format.arguments == arguments
    if name == "gptoss":
        assert "Reasoning: high" in text


REFUSED = [
    ("qwen3", {"enable_thinking": False}, "set base.template.enable_thinking=true"),
    ("ds-v31", {"thinking": False}, "set base.template.thinking=true"), ("qwen3-nothink", {}, "set thinking=none"),
]  # fmt: skip


@of_family("arguments", "fix", given=REFUSED)
def test_a_thinking_that_the_template_closes_is_refused_with_the_argument_to_set(
    name: str, arguments: Any, fix: str, folder_of: Callable[[str], str]
) -> None:
    vocabulary = vocabulary_of(folder_of(name))
    prompts = EnginePrompts(vocabulary, make_config(thinking="tags", template={"base": arguments}))
    with pytest.raises(ConfigError, match=fix):
        _ = prompts.format


ANSWERS_AT_ONCE = [
    ("qwen3", "<|im_start|>assistant\n<think>\n\n</think>\n\n"), ("qwq32b", "<think>\n</think>\n\n"),
    ("gptoss", "<|start|>assistant<|channel|>final<|message|>"), ("magistral", "[/INST][THINK][/THINK]"),
    ("llama31", "<|start_header_id|>assistant<|end_header_id|>\n\n"),
]  # fmt: skip


@of_family("end", given=ANSWERS_AT_ONCE)
def test_models_that_think_can_be_made_to_answer_at_once(name: str, end: str, folder_of: Callable[[str], str]) -> None:
    prompts = EnginePrompts(vocabulary_of(folder_of(name)), make_config(thinking="none"))
    assert prompts.format.kind == "none"
    assert prompts.vocabulary.decode(prompts.question_ids("What is it?")).endswith(end)


DIFFERENT = ("qwen3", "llama31", "gptoss", "gemma3", "magistral", "kimi-k2-thinking")
"""Families that differ in how they think, call tools and cut texts; each of these tests takes long."""
SHORT = ["--set", "max_step_tokens=8", "--max-steps", "3", "--answer-tokens", "8", "--seed", "1"]


@of_family(given=DIFFERENT)
def test_doctor_and_solve_run_on_random_weights(
    name: str, folder_of: Callable[[str], str], here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(name)
    vocabulary_of(folder)
    config = AutoConfig.from_pretrained(folder)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    models = ["--base", folder, "--draft", folder]
    monkeypatch.setattr("specreason_graph.engines.transformers.engine.load_vocabulary", vocabulary_of)
    with open_pair(folder, folder) as pair:
        monkeypatch.setattr(Launch, "open_pair", lambda _: nullcontext(pair))  # the commands find it open
        told = here("doctor", "--json", *models)
        solved = here("solve", *models, *SHORT, "What is 2+2?")
    found = {each["name"]: each for each in json.loads(told.stdout)}
    assert "stopped" not in found
    thinks = found["base thinking"]["detail"]
    assert thinks.startswith("tags" if FAMILIES[name].opening else "none") or name == "gptoss"
    assert (solved.returncode, "Traceback" in solved.stderr) == (0, False)
    assert "thinking " in solved.stdout
    assert "accepted " in solved.stdout


CLOSED = [
    ("qwen3", ["I look.\n\n", "</think>"], {}, "<think>\nI look.\n\n</think>\n\n"),
    ("qwen3", ["I look.</think>"], {}, "<think>\nI look.</think>\n\n"),
    ("qwen3", ["I look.\n</think>"], {}, "<think>\nI look.\n</think>\n\n"),
    ("qwen3", ["I look at it for a long time"], {"thinking_tokens": 4, "max_step_tokens": 4},
     "<think>\nI look at it\n</think>\n\n"),
    ("qwen3", ["I look.\n\n"], {"max_steps": 1}, "<think>\nI look.\n\n</think>\n\n"),
]  # fmt: skip


@of_family("drafts", "settings", "end", given=CLOSED)
def test_a_thinking_is_closed_as_the_family_closes_it(
    name: str, drafts: list[str], settings: Any, end: str, folder_of: Callable[[str], str]
) -> None:
    vocabulary = vocabulary_of(folder_of(name))
    draft, base = FakeEngine(drafts, vocabulary=vocabulary), FakeEngine(["</think>"] * 2, [9], vocabulary=vocabulary)
    with EnginePair(draft, base) as pair:
        create_specreason(pair, min_step_tokens=1, **settings).compile().invoke({"question": "What is it?"})
    assert vocabulary.decode(base.calls[-1].prompt_ids).endswith(end)


@of_family(given=["llama31", "gptoss", "qwen3", "magistral", "kimi-k2-thinking"])
def test_two_calls_in_one_turn_go_back_with_their_results(name: str, folder_of: Callable[[str], str]) -> None:
    models = Models(name, folder_of(name), tools=[LOOK])
    calls = [
        {"name": "look", "args": {"place": place}, "id": f"abcdefgh{i}"} for i, place in enumerate(("Rome", "Oslo"))
    ]
    results = [
        ToolMessage(f"{text} there.", tool_call_id=f"abcdefgh{i}", name="look")
        for i, text in enumerate(("Rain", "Snow"))
    ]
    asked = turns_of(HumanMessage("Where?"), AIMessage("", tool_calls=calls), *results)
    head = models.decoded(models.prompts.head_ids(asked)).rpartition("Where?")[2]
    assert [head.count(text) for text in ("Rome", "Oslo", "Rain there.", "Snow there.")] == [1] * 4
    assert models.prompts.tool_format
    one_each = name in ("llama31", "gptoss")
    assert models.prompts.tool_format.one_call is one_each
    assert (head.index("Rain there.") < head.index("Oslo")) is one_each
