"""Errors as OpenAI's clients know them: a status, and a body with message, type, parameter and code."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from specreason_graph.errors import (
    ContextLimitError,
    EngineBusyError,
    EngineError,
    EngineTimeoutError,
    QuestionError,
    QuestionTooLongError,
    RecordError,
    SpecReasonError,
    UsageError,
)

log = logging.getLogger(__name__)
RETRY_SECONDS = 2
"""After how long a client should ask again that was refused for lack of room."""
UNFORESEEN = "the server failed in a way that nobody foresaw; its log says how"
UNNAMED = ("body", "str")
"""Parts of the place of an error that are names of types; others of them have brackets."""
TOO_LONG = "context_length_exceeded"
"""OpenAI's code for a conversation that does not fit; frameworks shorten theirs when they see it."""


class ApiError(HTTPException):
    """A request that is not answered, with what an OpenAI client is told."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.code, self.param = code, param

    @property
    def body(self) -> dict[str, Any]:
        """The body of the response, and of the last event of a stream that fails."""
        kind = "invalid_request_error" if self.status_code < 500 else "server_error"
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}

    def of_run(self, headers: dict[str, str]) -> ApiError:
        """The same, with the headers of a run that had begun."""
        begun = headers if self.status_code >= 500 else {}
        return ApiError(
            self.status_code, self.detail, code=self.code, param=self.param, headers={**begun, **(self.headers or {})}
        )  # fmt: skip

    def response(self) -> JSONResponse:
        """The response."""
        return JSONResponse(self.body, self.status_code, self.headers)


def busy(message: str) -> ApiError:
    """Too many requests: asking again later helps."""
    return ApiError(429, message, code="rate_limit_exceeded", headers={"retry-after": str(RETRY_SECONDS)})


def api_error(error: Exception) -> ApiError:
    """What a client is told of an error; one that nobody foresaw is logged and not told."""
    match error:
        case ApiError():
            return error
        case QuestionTooLongError() | ContextLimitError():
            return ApiError(400, str(error), code=TOO_LONG, param="messages")
        case QuestionError():
            return ApiError(400, str(error), param="messages")
        case RecordError():
            return ApiError(500, str(error))
        case UsageError():
            return ApiError(400, str(error))
        case EngineBusyError():
            return ApiError(503, str(error), headers={"retry-after": str(RETRY_SECONDS)})
        case EngineTimeoutError():
            return ApiError(504, str(error))
        case EngineError():
            return ApiError(503 if error.retryable else 502, str(error))
        case SpecReasonError():
            return ApiError(500, str(error))
    log.error(UNFORESEEN, exc_info=error)
    return ApiError(500, UNFORESEEN)


def answer_errors(app: FastAPI) -> None:
    """Make every error that leaves a request the response that OpenAI's clients know."""

    async def known(_: Request, error: Exception) -> JSONResponse:
        return api_error(error).response()

    async def http(request: Request, error: Exception) -> JSONResponse:
        return (error if isinstance(error, ApiError) else _of_http(request, error)).response()

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        return _of_validation(error).response()

    app.add_exception_handler(SpecReasonError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, known)


def _of_http(request: Request, error: Any) -> ApiError:
    """What FastAPI itself refuses: an address or a method that is not served, a body that is no JSON."""
    message, code = str(error.detail), None
    if error.status_code in (404, 405):
        message = f"there is no {request.method} {request.url.path}; POST /v1/chat/completions and GET /v1/models are"
        code = "unknown_url"
    return ApiError(error.status_code, message, code=code, headers=dict(error.headers or {}))


def _of_validation(error: Any) -> ApiError:
    """The first thing that is wrong with a body."""
    first = error.errors()[0]
    place = [part for part in map(str, first["loc"]) if part not in UNNAMED and "[" not in part]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is no JSON: {first['ctx']['error']} at character {place[-1]}")
    if not place:
        return ApiError(400, "the body is no JSON object; send one with the header content-type: application/json")
    param = ".".join(place)
    if first["type"] == "missing":
        return ApiError(400, f"{param} is missing", param=param, code="missing_required_parameter")
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{param}: {message[:1].lower()}{message[1:]}", param=param)
