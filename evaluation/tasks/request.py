"""The task ``request``: one edit with each editor, shown before and after, saved or merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from datamodules.records import Request
from editors.editor import Editor
from edits.history import Making
from evaluation.correction import Correction
from evaluation.request import before_and_after
from evaluation.tasks.destinations import Destinations
from evaluation.tasks.task import Task
from models.language_model import LanguageModel


class OneRequest(Task):
    """Makes one edit with each editor and shows the answers before and after.

    Args:
        prompt: of the request.
        subject: in the prompt.
        target: what is to become true.
        ask: further prompts to answer before and after.
        save: file for the edit.
        merge: folder for the edited model.

    Raises:
        ValueError: a part of the request is missing, ``ask`` is no list, or there is something
            already where ``save`` and ``merge`` are to go.
    """

    def __init__(
        self,
        *,
        prompt: str | None = None,
        subject: str | None = None,
        target: str | None = None,
        ask: Sequence[str] = (),
        save: str | None = None,
        merge: str | None = None,
    ):
        texts = {"prompt": prompt, "subject": subject, "target": target}
        for name, text in texts.items():
            if text is None:
                raise ValueError(f"{name} is missing; a request has {', '.join(texts)}")
        if isinstance(ask, str):
            raise ValueError(f"ask={ask}: expected a list, as in 'request.ask=[\"...\"]'")
        self.request = Request(*map(str, texts.values()))
        self.ask = ask
        self.destinations = Destinations(save, merge)

    def check(self, editors: Sequence[str]) -> None:
        """As `Task.check`; one edit is saved or merged, not several."""
        super().check(editors)
        if self.destinations != Destinations() and len(editors) > 1:
            raise ValueError(f"request.save and request.merge take one editor, got {editors}")

    def run(
        self,
        language_model: LanguageModel,
        editors: Mapping[str, Editor],
        folder: Path,
        console: Console,
    ) -> None:
        """As `Task.run`."""
        for name, editor in editors.items():
            edit = editor.edit([self.request])
            title = f"{name}: {self.request.prompt} → {self.request.target}"
            prompts = [self.request.prompt, *self.ask]
            console.print(before_and_after(title, language_model, edit, prompts))
            making = Making.now(name, [self.request], editor.identity())
            self.destinations.write(Correction(language_model, edit, (making,)))
