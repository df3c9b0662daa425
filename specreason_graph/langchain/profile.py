"""What a pair can do, as LangChain's agents and middleware ask for it."""

from __future__ import annotations

from langchain_core.language_models import ModelProfile

from specreason_graph.config import ANSWER_TOKENS, SpecReasonConfig
from specreason_graph.engines.pair import EnginePair
from specreason_graph.lookahead.step_sampler import StepSampler
from specreason_graph.prompting.pair_prompts import ROLES


def profile_of(pair: EnginePair, config: SpecReasonConfig) -> ModelProfile:
    """The profile of a pair under these settings; it takes the tokenizers, and no engine need be open."""
    prompts = StepSampler.create(pair, config).prompts
    calls = all(prompts.of(role).knows_tools for role in ROLES) and prompts.of(config.answer_by).reads_calls
    context = min(pair.engine(role).context for role in ROLES)
    return ModelProfile(
        name=pair.base.name, open_weights=True,
        max_input_tokens=min(prompts.capacities.values()) - 1,  # a prompt must leave room to think
        max_output_tokens=min(context, config.thinking_tokens + (config.answer_tokens or ANSWER_TOKENS)),
        text_inputs=True, text_outputs=True, temperature=True, attachment=False,
        image_inputs=False, image_url_inputs=False, pdf_inputs=False, audio_inputs=False, video_inputs=False,
        image_tool_message=False, pdf_tool_message=False,
        image_outputs=False, audio_outputs=False, video_outputs=False,
        reasoning_output=not prompts.is_plain,
        tool_calling=calls, tool_choice=calls, tool_call_streaming=calls,
        structured_output=pair.engine(config.answer_by).supports_json_schema,
    )  # fmt: skip
