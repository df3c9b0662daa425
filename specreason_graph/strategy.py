"""What a strategy is made of: settings with a kind.

Published methods differ in what a proposal is worth, who writes next and when to stop. Each of these is a seam with a
base class of its own, and callers register classes of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

from specreason_graph.errors import ConfigError

if TYPE_CHECKING:
    from specreason_graph.judging.asking import Asking
    from specreason_graph.record.progress import Progress
    from specreason_graph.record.records import Proposal, Score, Step, StopReason

ENTRY_POINTS = "specreason_graph.strategies"
"""Group of entry points under which a package names classes of its own, each by its kind."""
RECORDED, REFUSED = "recorded", "strategy"
"""Key of pydantic's context under which a record says that it is one, and the type of an error of `read`."""
HOMES = (
    "specreason_graph.judging", "specreason_graph.policies.writers", "specreason_graph.policies.stopping",
    "specreason_graph.policies.rollback",
)  # fmt: skip
"""Where the classes of this package are."""


class Settings(BaseModel):
    """Values that people set: unknown names are rejected, and so are true and false in the place of a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what Python would take for 1 or 0."""
        wanted = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in (wanted, *get_args(wanted)):
            raise PydanticCustomError("no_number", "true and false are not allowed here")
        return value


class Strategy(Settings):
    """A choice on a seam; a class is known by the default of its ``kind``."""

    seam: ClassVar[str] = ""
    """What is chosen, as in ``judge``; the same for all classes of a seam."""
    kind: str
    """Names the class."""


class Verdict(NamedTuple):
    """What a judge makes of the evidence."""

    accepted: bool
    """Whether the proposal is let in."""
    number: float
    """The number that decided."""
    threshold: float
    """What it was held against."""
    kind: str
    """The judge that it is of: a part, where judges were combined."""


class Judge(Strategy):
    """Says what a proposal is worth: a number, from evidence that is kept with the step.

    All but `measure` is a pure function of the evidence, so that an auditor decides again what was decided.
    """

    seam: ClassVar[str] = "judge"
    needs: ClassVar[tuple[str, ...]] = ()
    """Evidence that the number is made of, in the order in which it is got: ``digit``, ``likelihood``, ``confidence``,
    ``entropy``, or the own kind, for what `measure` finds."""
    scale: ClassVar[tuple[float, float]] = (-float("inf"), float("inf"))
    """Least and greatest number."""
    trials: ClassVar[tuple[float, ...]] = ()
    """Thresholds that are compared over many runs, the easiest first."""
    is_combined: ClassVar[bool] = False
    """Whether it is made of others, so that a recorded threshold may be that of any part."""
    threshold: float
    """Number from which a proposal is accepted."""

    def number(self, score: Score) -> float:
        """The number that is held against the threshold; ``score`` holds the evidence."""
        raise NotImplementedError

    async def measure(self, asking: Asking) -> Any:
        """Evidence of the own kind, as JSON values: whatever `number` needs and engines do not tell by themselves.

        An `asking.Measured` also says what it cost.
        """
        raise NotImplementedError

    def wants(self, score: Score) -> str | None:
        """What evidence is still lacking; None where it is enough to decide."""
        return next((name for name in self.needs if not score.has(name)), None)

    def decide(self, score: Score) -> Verdict:
        """Accept a proposal whose number reaches the threshold."""
        number = self.number(score)
        return Verdict(number >= self.threshold, number, self.threshold, self.kind)

    def parts(self) -> Iterator[Judge]:
        """Itself, and the judges that it is combined of."""
        yield self

    def with_threshold(self, threshold: float) -> Self:
        """The same judge with another threshold."""
        return self.model_copy(update={"threshold": threshold})

    @property
    def scale_in_force(self) -> tuple[float, float]:
        """The scale of the threshold; of combined judges that of the last part."""
        return self.scale

    @property
    def trials_in_force(self) -> tuple[float, ...]:
        """Thresholds that are compared over many runs; of combined judges those of the last part."""
        return self.trials

    @property
    def accepts_from(self) -> float:
        """The threshold; of combined judges that of the last part."""
        return self.threshold

    @property
    def may_need(self) -> frozenset[str]:
        """All evidence that it may ask for."""
        return frozenset(self.needs)


class Probe(NamedTuple):
    """How an answer is asked for while the thinking goes on."""

    tokens: int
    """Most tokens of it."""
    prefill: str
    """How it begins."""
    until: str
    """Text that ends it."""


class Stopping(Strategy):
    """Says when the thinking ends, besides the models' own word and the limits of a run."""

    seam: ClassVar[str] = "stopping"

    @property
    def probe(self) -> Probe | None:
        """The answer that the base is asked for in front of each step, as evidence; None asks for none."""
        return None

    def ends(self, last: Step | Proposal, progress: Progress) -> StopReason | None:  # noqa: ARG002
        """Why the thinking ends behind the step ``last``, ``stopping_rule`` or ``answer_settled``; None goes on.

        It must follow from what it is given: work ahead asks it, and an auditor asks it again.
        """
        return None


class MissingStopping(Stopping):
    """A rule of a record whose class is not known here; it ends nothing."""

    model_config = ConfigDict(extra="allow")


class MissingJudge(Judge):
    """A judge of a record whose class is not known here; it decides nothing."""

    model_config = ConfigDict(extra="allow")
    threshold: float = 0.0

    def number(self, score: Score) -> float:  # noqa: ARG002
        """Raise `ConfigError`, which names what is missing."""
        raise ConfigError(f"there is no judge {self.kind!r} here", hint="register the class that the run had")


class PastStep(NamedTuple):
    """What is known of a step of the trace when it is decided who writes the next one."""

    author: Literal["base", "draft", "human"]
    """Who wrote it."""
    asked: bool
    """Whether the draft was asked for it; where it was and is not the author, its proposal did not get in."""
    text: str
    """The text, without white space around it."""
    logprob: float | None = None
    """Mean log-probability of its tokens under the draft that wrote it, in nats; None where nobody asked or told."""
    number: float | None = None
    """What the judge found of the draft's proposal, on its scale; None where there was none, or it is not known yet."""
    judge: str | None = None
    """Kind of the judge that the number is of."""
    reviewed: bool = False
    """Whether a human decided on it."""


class Writer(Strategy):
    """Says who writes the next step, from the steps before."""

    seam: ClassVar[str] = "writer"

    def handover(self, trail: Sequence[PastStep]) -> str | None:
        """Why the base writes the next step and the draft is not asked, in a few words; None asks the draft.

        A pure function of the steps so far, the first one first: it is asked again ahead of time, and by auditors.
        """
        raise NotImplementedError

    @property
    def may_need(self) -> frozenset[str]:
        """What the draft is to tell with its tokens: nothing, or ``confidence``, for `PastStep.logprob`."""
        return frozenset()


class MissingWriter(Writer):
    """A writer of a record whose class is not known here; it decides nothing."""

    model_config = ConfigDict(extra="allow")

    def handover(self, trail: Sequence[PastStep]) -> str | None:  # noqa: ARG002
        """Raise `ConfigError`, which names what is missing."""
        raise ConfigError(f"there is no writer {self.kind!r} here", hint="register the class that the run had")


class Rollback(Strategy):
    """Says when committed steps are taken back, so that the base model writes on from an earlier place."""

    seam: ClassVar[str] = "rollback"

    def steps_back(self, trail: Sequence[PastStep], rejected: PastStep, earlier: int) -> int:
        """How many of the last steps are taken back now that a proposal is rejected; 0 takes none.

        ``trail``: the steps that stand, the first one first. ``rejected``: the proposal behind them. ``earlier``: how
        often the run has gone back before. A pure function of the record: auditors ask it again. Less is taken back
        where the steps do not begin with one of the draft's, which the base would write otherwise, or where a human
        decided on one.
        """
        raise NotImplementedError


class MissingRollback(Rollback):
    """A rule of a record whose class is not known here; it decides nothing."""

    model_config = ConfigDict(extra="allow")

    def steps_back(self, trail: Sequence[PastStep], rejected: PastStep, earlier: int) -> int:  # noqa: ARG002
        """Raise `ConfigError`, which names what is missing."""
        raise ConfigError(f"there is no rollback {self.kind!r} here", hint="register the class that the run had")


MISSING: dict[str, type[Strategy]] = {
    "judge": MissingJudge, "writer": MissingWriter, "stopping": MissingStopping, "rollback": MissingRollback,
}  # fmt: skip
"""What stands for a recorded class that is not known here, by seam."""
S = TypeVar("S", bound=Strategy)
_KNOWN: dict[tuple[str, str], type[Strategy]] = {}


def register(strategy: type[S]) -> type[S]:
    """Make a class known by its kind, so that settings and records may name it; also as a decorator."""
    kind = strategy.model_fields["kind"].default
    if not isinstance(kind, str) or not kind:
        raise ConfigError(f"{strategy.__name__} has no kind", hint='give it one: kind: Literal["mine"] = "mine"')
    known = _KNOWN.setdefault((strategy.seam, kind), strategy)
    if f"{known.__module__}.{known.__qualname__}" != f"{strategy.__module__}.{strategy.__qualname__}":
        raise ConfigError(
            f"there is a {strategy.seam} {kind!r} already: {known.__qualname__}", hint="choose another kind"
        )
    _KNOWN[strategy.seam, kind] = strategy  # a module that is loaded again has new classes
    return strategy


def kinds(seam: str) -> list[str]:
    """All kinds that are known on a seam, in the order of the alphabet."""
    _load_all(seam)
    return sorted(kind for of, kind in _KNOWN if of == seam)


def type_of(seam: str, kind: str) -> type[Strategy]:
    """The class of a kind that is known."""
    _load_all(seam, kind)
    return _KNOWN[seam, kind]


def read(seam: type[S], given: Any, *, recorded: bool = False) -> S:
    """A strategy from a kind, or from a mapping with ``kind`` and its settings; itself where it is one already.

    Raises pydantic's ``ValidationError`` for settings that are not allowed, and ``PydanticCustomError`` for a kind that
    is not known; one that is ``recorded`` is then what `MISSING` has for its seam, and all else of its run can be read.
    """
    if isinstance(given, seam):
        if type(given) not in _KNOWN.values() and type(given) is not MISSING[seam.seam]:
            raise _refused(f"the {seam.seam} {given.kind!r} is not registered; put @register above its class")
        return given
    if isinstance(given, str):
        given = {"kind": given}
    kind = given.get("kind") if isinstance(given, Mapping) else None
    if not isinstance(kind, str):
        raise _refused(f"a {seam.seam} has a kind, and got {given!r}; write one of: {_listed(seam.seam)}")
    if (seam.seam, kind) not in _KNOWN:
        _load_all(seam.seam, kind)
    if (seam.seam, kind) not in _KNOWN and not recorded:
        hint = f"write one of {_listed(seam.seam)}, or register a class of your own"
        raise _refused(f"there is no {seam.seam} {kind!r} here; {hint}")
    form = _KNOWN.get((seam.seam, kind), MISSING[seam.seam])
    try:
        found = form.model_validate(dict(given), context={RECORDED: recorded})
    except ValidationError as error:
        problems = (f"{seam.seam}.{'.'.join(map(str, e['loc']))} = {e['input']!r} is not allowed: {e['msg']}"
                    if e["type"] != REFUSED else e["msg"] for e in error.errors())  # fmt: skip
        raise _refused("; ".join(problems)) from None
    assert isinstance(found, seam)  # noqa: S101 - kept under its seam
    return found


def _refused(problem: str) -> PydanticCustomError:
    return PydanticCustomError(REFUSED, "{problem}", {"problem": problem})


def is_recorded(info: ValidationInfo) -> bool:
    """Whether what is validated comes out of a record."""
    return bool((info.context or {}).get(RECORDED))


def _read(seam: type[S], given: Any, info: ValidationInfo) -> S:
    return read(seam, given, recorded=is_recorded(info))


def _form(seam: type[Strategy]) -> WithJsonSchema:
    """What all kinds have in common, as JSON schema: each has settings of its own."""
    kind = {"type": "string", "description": "Names the class."}
    return WithJsonSchema(
        {"title": seam.__name__, "type": "object", "properties": {"kind": kind}, "required": ["kind"]}
    )


AnyJudge = Annotated[SerializeAsAny[Judge], BeforeValidator(partial(_read, Judge)), _form(Judge)]
"""A judge of any kind, as a field of a model: given as a kind, a mapping or a `Judge`."""
AnyWriter = Annotated[SerializeAsAny[Writer], BeforeValidator(partial(_read, Writer)), _form(Writer)]
"""A writer of any kind, likewise."""
AnyStopping = Annotated[SerializeAsAny[Stopping], BeforeValidator(partial(_read, Stopping)), _form(Stopping)]
"""A stopping rule of any kind, likewise."""
AnyRollback = Annotated[SerializeAsAny[Rollback], BeforeValidator(partial(_read, Rollback)), _form(Rollback)]
"""A rule of when steps are taken back, likewise."""


def _listed(seam: str) -> str:
    return ", ".join(kinds(seam))


def _load_all(seam: str, kind: str | None = None) -> None:
    """Load what this package has, and what installed packages name; of theirs only ``kind`` where it is given."""
    for home in HOMES:
        import_module(home)
    if (seam, str(kind)) in _KNOWN:
        return
    for point in entry_points(group=ENTRY_POINTS):
        if (seam, point.name) not in _KNOWN and kind in (None, point.name):
            register(point.load())
