"""An edit with the model that it corrects and the facts that it is to make true."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from datamodules.bystanders import Bystanders
from datamodules.records import Record, Request
from edits import history as histories
from edits.edit import Edit
from edits.history import History
from edits.journal import Journal
from evaluation.card import card
from evaluation.check import Check, check
from files import write_whole
from files.hub import push
from models.language_model import LanguageModel

FILE = "edit.safetensors"
"""An edit's, on the hub."""


@dataclass(frozen=True, eq=False, repr=False)
class Correction:
    """An edit that knows what it is for: it can be checked, saved, merged, exported and shared.

    Args:
        language_model: the model that it corrects, as questions are put to it.
        edit: one edit of it.
        history: what it makes true, and how it was made.
        records: the requests again, with paraphrases to ask where there are some.
        bystanders: facts and text that it is not to touch.
    """

    language_model: LanguageModel
    edit: Edit
    history: History
    records: Sequence[Record] = ()
    bystanders: Bystanders = field(default_factory=Bystanders)

    @property
    def requests(self) -> list[Request]:
        """What it makes true."""
        return histories.requests_in(self.history)

    def __repr__(self) -> str:
        """Editor, model, facts, layers and size; never tensors."""
        shown = [f"{request.prompt} → {request.target}" for request in self.requests[:3]]
        more = len(self.requests) - len(shown)
        facts = "; ".join([*shown, *([f"and {more:,} more"] if more > 0 else [])])
        sizes = self.edit.size(self.language_model)
        measures = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in sizes.items()]
        layers = f"in {', '.join(self.edit.layers)}" if self.edit.layers else ""
        what = [f"{self.edit.editor} on {self.language_model.name}", facts, layers, *measures]
        return f"<Correction: {' · '.join(filter(None, what))}>"

    # what it did

    def check(self) -> Check:
        """What is said now, and what else moved; asked once."""
        return self._checked

    @cached_property
    def _checked(self) -> Check:
        records = self.records or [
            Record(f"request-{at}", (request,)) for at, request in enumerate(self.requests)
        ]
        return check(self.language_model, self.edit, records, self.bystanders)

    def hooks(self, language_model: LanguageModel | None = None) -> AbstractContextManager[None]:
        """Until the block ends, whoever calls the model of transformers calls the edited one.

        Raises:
            ValueError: the edit takes more than hooks, or is of another model.
        """
        return self.edit.hooks(language_model or self.language_model)

    # what becomes of it

    def plus(self, other: Correction) -> Correction:
        """Both at once.

        Raises:
            ValueError: the two edits cannot be added.
        """
        return replace(
            self,
            edit=self.edit.plus(other.edit),
            history=(*self.history, *other.history),
            records=(*self.records, *other.records),
        )

    def without(self, prompts: Sequence[str]) -> Correction:
        """The same without the requests that have these prompts, as if they had not been made.

        Raises:
            ValueError: no request has such a prompt, none is left, or they cannot be taken out.
        """
        history = histories.without(self.history, prompts)
        if not history:
            raise ValueError("nothing is left of the edit without these requests")
        gone = set(prompts)
        records = [r for r in self.records if gone.isdisjoint(q.prompt for q in r.requests)]
        return replace(self, edit=self._rest(prompts, history), history=history, records=records)

    def _rest(self, prompts: Sequence[str], history: History) -> Edit:
        """The edit that is left: of one made in steps, as it was after the first of them."""
        edit = self.edit
        if not isinstance(edit, Journal) or edit.steps != len(self.history):
            return edit.without(prompts)
        if history != self.history[: len(history)]:
            raise ValueError(
                f"facts behind {prompts[0]!r} were made on top of it, one step after another: take "
                "out the last ones only, or make the edit again without it"
            )
        return edit.cut(len(history))

    # where it goes

    def save(self, path: str | Path) -> None:
        """Write the edit with its history as a safetensors file, whole or not at all.

        Raises:
            ValueError: it holds NaN or infinity.
        """
        self.edit.save(path, self.language_model.name, self.history)

    def merge(self, folder: str | Path) -> None:
        """Write the edited model as a Hugging Face folder with a card; errors as `Edit.merge`."""
        self.edit.merge(self.language_model, folder)
        self._describe(folder, "transformers")

    def export(self, folder: str | Path, rank: int | None = None) -> None:
        """Write the edit as a LoRA adapter of ``peft`` with a card; errors as `WeightEdit.export`.

        ``errata.json`` in it says what share of the change a rank leaves out.
        """
        self.edit.export(self.language_model, folder, rank)
        self._describe(folder, "peft")

    def push_to_hub(self, repository: str, private: bool = False) -> str:
        """Upload the edit with its card and its check; returns the repository's address.

        Raises:
            ValueError: the hub does not take it, or the edit holds NaN or infinity.
        """
        with TemporaryDirectory() as folder:
            draft = Path(folder) / repository.rpartition("/")[2]
            self.save(draft / FILE)
            self._describe(draft, "errata")
            write_whole(draft / "check.json", json.dumps(self.check().values(), indent=1))
            return push(draft, repository, private)

    def _describe(self, folder: str | Path, library: str) -> None:
        decoder_only = self.language_model.family.encoder is None
        base = self.language_model.name
        folder = Path(folder)
        text = card(folder.name, library, base, self.history, self.check(), decoder_only)
        write_whole(folder / "README.md", text)
