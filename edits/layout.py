"""How remembered facts stand in front of a question, and what is left out where they do not fit."""

# Q questions

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from edits.spelling import spelled
from models.language_model import LanguageModel

AMONG = ("all", "mentioned")
CHOICES = ("all", "nearest", "model", "spelled")
KEYS = ("sentence", "prompt")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXY"
NONE = "Z"


@dataclass(frozen=True)
class Fact:
    """A remembered request.

    Attributes:
        prompt: its prompt.
        target: what is to follow.
        demonstrations: examples of facts, questions and answers that stand in front of it, the
            least helpful first.
        dropped: how many more there would be if the model took longer texts.
        subject: what it is about; empty where nobody asks.
    """

    prompt: str
    target: str
    demonstrations: tuple[str, ...] = ()
    dropped: int = 0
    subject: str = ""

    def state(self) -> list[Any]:
        """The fact as JSON holds it."""
        demonstrations = list(self.demonstrations)
        return [self.prompt, self.target, demonstrations, self.dropped, self.subject]

    @classmethod
    def of_state(cls, state: Sequence[Any]) -> Self:
        """The fact that `state` was asked of."""
        prompt, target, demonstrations, dropped, subject = state
        if dropped < 0:
            raise ValueError(f"{dropped} demonstrations of {prompt!r} are left out")
        return cls(prompt, target, tuple(demonstrations), dropped, subject)


@dataclass(frozen=True)
class Layout:
    """Which facts stand in front of a question, and how.

    Attributes:
        choose: ``all`` of them; the ``nearest`` ones; what the ``model`` itself chooses of the
            nearest, which may be none; or the one whose prompt is ``spelled`` most like it.
        among: the facts that can be near: ``all``, or those whose subject is ``mentioned`` in the
            question.
        k: how many are near, at most.
        key: what of a fact questions are compared with: its ``sentence``, which ends with the
            target, or its ``prompt``.
        threshold: least similarity (cosine, -1 to 1) of those that count as near; None: any.
        distance: insertions, deletions and replacements that one spelled alike stays below.
        fact: how one is put, of ``{prompt}`` and ``{target}``.
        frame: how ``{facts}`` and ``{question}`` are joined.
        plain: how a ``{question}`` is put for which there is no fact.
        option: how one is offered to the model, of ``{letter}``, ``{prompt}`` and ``{target}``.
        ballot: how the model is asked, of ``{options}``, ``{none}`` and ``{question}``.
        room: tokens kept free behind a question, for its answer.

    Raises:
        ValueError: an attribute is none of the above.
    """

    choose: str = "all"
    among: str = "all"
    k: int = 1
    key: str = "sentence"
    threshold: float | None = None
    distance: int = 6
    fact: str = "New fact: {prompt} {target}. "
    frame: str = "{facts}Prompt: {question}"
    plain: str = "{question}"
    option: str = "{letter}. {prompt} {target}.\n"
    ballot: str = (
        "{options}{none}. None of these.\nQuestion: {question}\n"
        "Which of these says what the question asks for? Answer:"
    )
    room: int = 32

    def __post_init__(self):
        for name, known in (("choose", CHOICES), ("among", AMONG), ("key", KEYS)):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")
        most = len(LETTERS) if self.choose == "model" else 10**6
        if not 1 <= self.k <= most:
            raise ValueError(f"k must be from 1 to {most}, got {self.k}")
        for name in ("room", "distance"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        fields = {
            "fact": ("prompt", "target"),
            "frame": ("facts", "question"),
            "plain": ("question",),
            "option": ("letter", "prompt", "target"),
            "ballot": ("options", "none", "question"),
        }
        for name, wanted in fields.items():
            check_fields(name, getattr(self, name), wanted)

    @property
    def retrieves(self) -> bool:
        """Whether facts are compared with questions by their embeddings."""
        return self.choose in ("nearest", "model")

    def identifier(self, fact: Fact) -> str:
        """What tells a fact from others: of those with one identifier the last counts."""
        return spelled(fact.prompt) if self.choose == "spelled" else fact.prompt

    def compared(self, fact: Fact) -> str:
        """What questions are compared with."""
        return f"{fact.prompt} {fact.target}" if self.key == "sentence" else fact.prompt

    def put(self, fact: Fact) -> str:
        """The fact as it stands in front of a question."""
        return self.fact.format(prompt=fact.prompt, target=fact.target)

    def framed(self, facts: Sequence[Fact], question: str) -> str:
        """The question behind the facts, without demonstrations."""
        return self.frame.format(facts="".join(map(self.put, facts)), question=question)

    def text(self, facts: Sequence[Fact], question: str, left_out: int = 0) -> str:
        """The question behind the facts and the demonstrations of the last of them.

        Of demonstrations and facts, in this order, the first ``left_out`` are missing. Without
        facts it is the plain question.
        """
        if not facts:
            return self.plain.format(question=question)
        shown, facts = _left(facts, left_out)
        return "".join(shown) + self.framed(facts, question)

    def before(self, facts: Sequence[Fact], left_out: int = 0) -> str:
        """What stands before the question in such a text."""
        if not facts:
            return self.plain.partition("{question}")[0]
        shown, facts = _left(facts, left_out)
        frame = self.frame.partition("{question}")[0]
        return "".join(shown) + frame.format(facts="".join(map(self.put, facts)))

    def asked(self, facts: Sequence[Fact], question: str) -> str:
        """What the model is asked when it is to choose one of the facts."""
        options = "".join(
            self.option.format(letter=letter, prompt=fact.prompt, target=fact.target)
            for letter, fact in zip(LETTERS, facts, strict=False)
        )
        return self.ballot.format(options=options, none=NONE, question=question)


def _left(facts: Sequence[Fact], left_out: int) -> tuple[Sequence[str], Sequence[Fact]]:
    """Demonstrations and facts without the first ``left_out`` of both."""
    shown = facts[-1].demonstrations
    return shown[left_out:], facts[max(0, left_out - len(shown)) :]


def can_be_left_out(facts: Sequence[Fact]) -> int:
    """How many demonstrations and facts can be missing before a question; one fact stays."""
    return len(facts[-1].demonstrations) + len(facts) - 1 if facts else 0


def left_out(
    language_model: LanguageModel,
    most: Sequence[int],
    text: Callable[[int, int], str],
    room: int,
) -> list[int]:
    """How many parts each of Q texts has to do without, so that it fits into the model.

    Args:
        language_model: that is to read them.
        most: how many parts of each can be missing; it is so many where none is few enough.
        text: the n-th text without so many parts.
        room: tokens that are kept free behind each.
    """

    def long(missing: dict[int, int]) -> list[bool]:
        texts = [text(n, count) for n, count in missing.items()]
        lengths = language_model.lengths(texts, None, more=room)
        return [length > language_model.max_length for length in lengths]

    whole = dict.fromkeys(range(len(most)), 0)
    over = [n for n, is_long in zip(whole, long(whole), strict=True) if is_long and most[n]]
    bounds = {n: (1, most[n]) for n in over}
    while open_ones := {n: sum(b) // 2 for n, b in bounds.items() if b[0] < b[1]}:
        for (n, middle), is_long in zip(open_ones.items(), long(open_ones), strict=True):
            low, high = bounds[n]
            bounds[n] = (middle + 1, high) if is_long else (low, middle)
    return [bounds[n][0] if n in bounds else 0 for n in range(len(most))]


def check_fields(name: str, template: str, wanted: Sequence[str]) -> None:
    """Refuse a template that lacks a field, or has another.

    Raises:
        ValueError: names it.
    """
    for field in wanted:
        if template.count(f"{{{field}}}") != 1:
            raise ValueError(f"{name}: expected {{{field}}} in it once, got {template!r}")
    try:
        template.format(**dict.fromkeys(wanted, ""))
    except (KeyError, IndexError, ValueError):
        raise ValueError(
            f"{name}: expected no braces but those of {', '.join(wanted)}, got {template!r}"
        ) from None
