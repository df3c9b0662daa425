"""Answers that are objects: what the model is told, and how its reply is read."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, Literal

from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass

Schema = dict[str, Any] | type
Method = Literal["json_schema", "json_mode", "function_calling"]


def schema_arguments(schema: Schema, method: Method, *, kept_to: bool) -> dict[str, Any]:
    """What a call is told, so that its answer is an object; ``kept_to``: whether the engine keeps to a schema."""
    form: dict[str, Any] | None = {"type": "object"} if kept_to else None
    if method == "json_schema":
        form = convert_to_json_schema(schema)
    return {
        "answer_schema": form, "ls_structured_output_format": {"kwargs": {"method": method}, "schema": schema}
    }  # fmt: skip


def read_objects(model: Runnable[Any, Any], schema: Schema, *, include_raw: bool) -> Runnable[Any, Any]:
    """A model whose answers are read as objects; ``include_raw`` gives the message and what went wrong beside them."""
    is_model = isinstance(schema, type) and is_basemodel_subclass(schema)
    parser: Runnable[Any, Any] = PydanticOutputParser(pydantic_object=schema) if is_model else JsonOutputParser()
    if not include_raw:
        return model | parser
    read = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=model) | read.with_fallbacks([failed], exception_key="parsing_error")
