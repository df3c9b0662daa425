"""What can go wrong, as one tree.

SpecReasonError
├── UsageError                the caller can mend it; the command line exits with 2
│   ├── ConfigError           a knob has a bad value or an unknown name
│   ├── QuestionError         the question is empty, or holds what cannot be read
│   │   └── QuestionTooLongError   it does not fit the context
│   ├── ModelError            a model cannot be found or loaded
│   └── ThreadError           no such thread, or a thread of something else
│       └── RecordError       a record is not as it was written; the command line exits with 1
└── EngineError               an engine failed at work; carries ``engine`` and ``retryable``
    ├── ContextLimitError     a prompt is longer than the engine's context
    ├── EngineRequestError    the engine refused what it was asked; asking again does not help
    ├── EngineBusyError       the engine's queue is full; asking later helps
    ├── EngineTimeoutError    no answer in time
    └── EngineDeadError       the engine's process or connection is gone
        └── EngineAnswerError what it answers is no answer to what it was asked
"""

from __future__ import annotations


class SpecReasonError(Exception):
    """Base of all operational errors; ``hint`` says what to do."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}; {self.hint}" if self.hint else message


def with_builtin_base(error: SpecReasonError) -> SpecReasonError:
    """The same error, of a class that is also one of Python's own.

    LangGraph's servers tell their clients the message of an error only where it is one of those. What LangGraph's
    `RetryPolicy` makes of the error stays: one of an engine is tried again, one of the caller's is not.
    """
    bases = (ConnectionError, RuntimeError) if isinstance(error, EngineError) else (RuntimeError,)
    kind = type(type(error).__name__, (type(error), *bases), {"__module__": type(error).__module__})
    same: SpecReasonError = kind.__new__(kind, *error.args)
    same.args = error.args
    vars(same).update(vars(error))
    return same.with_traceback(error.__traceback__)


class UsageError(SpecReasonError):
    """Bad input from the caller."""


class ConfigError(UsageError):
    """A setting is out of range or unknown."""


class QuestionError(UsageError):
    """A question that cannot be asked."""


class QuestionTooLongError(QuestionError):
    """A question or conversation that leaves no room to think."""


class ModelError(UsageError):
    """A model that cannot be found, read or used."""


class ThreadError(UsageError):
    """A thread that cannot be resumed."""


class RecordError(ThreadError):
    """A record is not as it was written; the command line exits with 1."""


class EngineError(SpecReasonError):
    """An engine failed at work."""

    def __init__(self, message: str, *, engine: str, retryable: bool = False, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.engine = engine
        self.retryable = retryable


class ContextLimitError(EngineError):
    """A prompt is longer than the engine's context."""


class EngineRequestError(EngineError):
    """The engine refused what it was asked."""


class EngineBusyError(EngineError):
    """The engine's queue is full."""


class EngineTimeoutError(EngineError):
    """The engine did not answer in time."""


class EngineDeadError(EngineError):
    """The engine's process or connection is gone."""


class EngineAnswerError(EngineDeadError):
    """The engine answered what is no answer: the wrong form, or what does not fit the request.

    It is tried again like a connection that broke off, because what is in between may have answered instead.
    """

    def __init__(self, message: str, *, engine: str, retryable: bool = True, hint: str = "") -> None:
        super().__init__(message, engine=engine, retryable=retryable, hint=hint)
