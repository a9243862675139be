"""A judge on this machine: a language model that prefers one of two letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from models.language_model import LanguageModel
from models.rendering import Rendering
from scoring.answers import Verdict
from scoring.judging.judge import RIGHT, UNPARSEABLE, WRONG, Case, Judge

TOO_LONG = "longer than the judge takes"


class LocalJudge(Judge):
    """The likelier of the letters behind the prompt is the verdict; nothing is generated.

    Args:
        language_model: who judges; as a chat where its tokenizer has a template.
    """

    def __init__(self, *, language_model: LanguageModel):
        chat = language_model.tokenizer.chat_template is not None
        self.language_model = language_model.rendered(Rendering("chat" if chat else "text"))

    def identity(self) -> dict[str, object]:
        """The model and how it is asked."""
        model = self.language_model
        return {
            "judge": "local",
            "model": model.fingerprint,
            "name": model.name,
            "rendering": asdict(model.rendering),
        }

    def ask(self, cases: Sequence[Case]) -> list[Verdict]:
        """As `Judge.ask`."""
        prompts = [case.prompt for case in cases]
        lengths = self.language_model.lengths(prompts, [RIGHT] * len(prompts))
        fits = [at for at, n in enumerate(lengths) if n <= self.language_model.max_length]
        verdicts = [Verdict(None, TOO_LONG)] * len(prompts)
        asked = [prompts[at] for at in fits for _ in (RIGHT, WRONG)]
        scores = self.language_model.score(asked, [RIGHT, WRONG] * len(fits))
        values = [float(log_probs.double().mean()) for log_probs in scores.log_probs]
        for at, right, wrong in zip(fits, values[::2], values[1::2], strict=True):
            said = right > wrong or right <= wrong  # of a broken model neither holds
            verdicts[at] = Verdict(right > wrong) if said else Verdict(None, UNPARSEABLE)
        return verdicts
