"""Whether an edit did what it was made for: what is said now, and what else moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from datamodules.bystanders import Bystanders
from datamodules.records import Probe, Record
from edits.edit import NOTHING, Edit
from evaluation.report.health import perplexity
from files import first_line
from models.language_model import LanguageModel
from scoring.questions import Questions
from scoring.scorers import Answer, generation_exact_match

ASKED = ("reliability", "generalization")
OTHERS = ("unrelated",)


@dataclass(frozen=True)
class Said:
    """A question, and what the model said to it before the edit and says now.

    Attributes:
        prompt: the question.
        target: what is to be said; to a bystander's question, what is true of it.
        before: the free continuation before the edit, its first line.
        now: the same of the edited model.
        right: whether it begins with the target now; of a bystander's, whether it begins with the
            words with which it began before, as many as the target has.
    """

    prompt: str
    target: str
    before: str
    now: str
    right: bool


@dataclass(frozen=True)
class Fact:
    """A request, and its paraphrases."""

    subject: str
    request: Said
    paraphrases: tuple[Said, ...] = ()

    def row(self) -> dict[str, Any]:
        """As a line of a table."""
        said = asdict(self.request)
        right = sum(said.right for said in self.paraphrases)
        counts = {"paraphrases_right": right, "paraphrases": len(self.paraphrases)}
        return {"prompt": said.pop("prompt"), "subject": self.subject, **said, **counts}


@dataclass(frozen=True)
class Check:
    """What an edit did.

    Attributes:
        facts: the requests that it was made for, in their order.
        bystanders: questions about other subjects.
        perplexity: of other text, before and now; None where the edit scores none.
        size: how large the change is; see `Edit.size`.
    """

    facts: tuple[Fact, ...]
    bystanders: tuple[Said, ...]
    perplexity: tuple[float, float] | None
    size: dict[str, float]

    @property
    def missed(self) -> list[Fact]:
        """The facts that are not said now."""
        return [fact for fact in self.facts if not fact.request.right]

    @property
    def moved(self) -> list[Said]:
        """The bystanders that are answered otherwise now."""
        return [said for said in self.bystanders if not said.right]

    def lines(self) -> dict[str, str]:
        """What there is to say in a few words each, by what it is about."""
        paraphrases = [said.right for fact in self.facts for said in fact.paraphrases]
        said = {"facts said now": _share(len(self.facts) - len(self.missed), len(self.facts))}
        if paraphrases:
            said["paraphrases"] = _share(sum(paraphrases), len(paraphrases))
        kept = len(self.bystanders) - len(self.moved)
        said["other facts as before"] = _share(kept, len(self.bystanders))
        if self.perplexity:
            before, now = self.perplexity
            said["perplexity of other text"] = f"{now:.4g} (before: {before:.4g})"
        sizes = {name.replace("_", " "): f"{value:.4g}" for name, value in self.size.items()}
        return said | sizes

    def values(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


def check(
    language_model: LanguageModel,
    edit: Edit,
    records: Sequence[Record],
    bystanders: Bystanders,
    max_new_tokens: int = 16,
) -> Check:
    """Ask before and after an edit.

    Args:
        language_model: as questions are put to it.
        edit: one edit.
        records: what it was made for; their probes of kind ``generalization`` are asked, too.
        bystanders: what it was not made for.
        max_new_tokens: of an answer, at most; more where the target is as long.
    """
    made = Questions(records, ASKED, max_new_tokens, kinds=ASKED, contrasts=False)
    others = bystanders.records({subject for record in records for subject in record.subjects})
    apart = Questions(others, OTHERS, 8, kinds=OTHERS, contrasts=False)
    unedited, edited = NOTHING.edited(language_model), edit.edited(language_model)
    before, now = ([*made.ask(model), *apart.ask(model)] for model in (unedited, edited))
    answers = zip([*made.probes, *apart.probes], before, now, strict=True)
    said = [_said(*answer) for answer in answers]
    count = len(made.probes)
    texts = None
    if edit.scores and bystanders.texts:
        first, second = (perplexity(m, bystanders.texts)["mean"] for m in (unedited, edited))
        texts = (first, second)
    facts = _facts(records, made.probes, said[:count])
    return Check(tuple(facts), tuple(said[count:]), texts, edit.size(language_model))


def _facts(records: Sequence[Record], probes: Sequence[Probe], said: Sequence[Said]) -> list[Fact]:
    """Record by record, its requests with the paraphrases that have their target."""
    facts, answers = [], iter(zip(probes, said, strict=True))
    for record in records:
        own = [next(answers) for _ in record.of_kind(*ASKED)]
        paraphrases = [answer for probe, answer in own if probe.kind == "generalization"]
        for request, (_, answer) in zip(record.requests, own, strict=False):
            of_it = tuple(p for p in paraphrases if p.target == request.target)
            facts.append(Fact(request.subject, answer, of_it))
    return facts


def _said(probe: Probe, before: Answer, now: Answer) -> Said:
    texts = first_line(before.text or ""), first_line(now.text or "")
    if probe.kind in ASKED:
        right = bool(generation_exact_match(probe, now, before))
    else:
        one, other = (_words(text, len(probe.target.split())) for text in texts)
        right = one == other
    return Said(probe.prompt, probe.target, *texts, right)


def _words(text: str, count: int) -> list[str]:
    """The first words, without what stands at their ends."""
    return [word.strip(".,;:!?\"'()") for word in text.split()[:count]]


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}"
