"""What one model says to one probe: how it reads the answers there are, and what it generates."""

from __future__ import annotations

from dataclasses import dataclass

NO_TOKEN = -1
"""What a broken model says in place of a token; no answer matches it."""


@dataclass(frozen=True)
class Reading:
    """One expected answer as a model reads it behind the prompt, token by token.

    Attributes:
        targets: ids of its t tokens.
        predicted: given the answer up to there, the most likely token in place of each; of a broken
            model `NO_TOKEN`.
        nll: mean negative log-likelihood in nats per token.
    """

    targets: tuple[int, ...]
    predicted: tuple[int, ...]
    nll: float

    @property
    def exact(self) -> bool:
        """Whether every token is the most likely one."""
        return self.predicted == self.targets


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a text.

    Attributes:
        right: whether it is a right answer; None: the judge did not say.
        reason: why it did not.
    """

    right: bool | None
    reason: str = ""


@dataclass(frozen=True)
class Answer:
    """What one model, edited or not, says to one probe.

    Attributes:
        readings: of the probe's right answers, its target first; empty where none was scored.
        contrast: of the probe's contrast, if it has one.
        text: the free greedy continuation of the prompt, where there is one.
        knows: whether the model knows what the probe presumes; the unedited one is asked.
        found: whether the edit found something for the question, where it looks questions up.
        distractors: readings of the probe's distractors.
        ended: whether the model ended the text itself; None: not known, or no text.
        verdict: of the judge, where one was asked about the text.
    """

    readings: tuple[Reading, ...] = ()
    contrast: Reading | None = None
    text: str | None = None
    knows: bool = True
    found: bool | None = None
    distractors: tuple[Reading, ...] = ()
    ended: bool | None = None
    verdict: Verdict | None = None

    @property
    def best(self) -> Reading | None:
        """The right answer that counts: one that is matched, or else the likeliest."""
        return min(self.readings, key=lambda r: (not r.exact, r.nll), default=None)

    @property
    def nll(self) -> float | None:
        """Of the likeliest right answer."""
        return min((reading.nll for reading in self.readings), default=None)

    @property
    def wrong_nll(self) -> float | None:
        """Of the likeliest wrong answer; None where none was scored."""
        contrast = () if self.contrast is None else (self.contrast,)
        return min((reading.nll for reading in (*contrast, *self.distractors)), default=None)
