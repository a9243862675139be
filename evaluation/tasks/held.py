"""The tasks ``show``, ``undo``, ``stack`` and ``ask``: what is done with edits that were saved."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import groupby
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from datamodules.bystanders import Bystanders
from datamodules.reading import fetch
from datamodules.records import requests_of
from datamodules.requests import RequestsData
from editors.editor import Editor
from edits import storage
from edits.edit import NOTHING, Edit
from edits.history import History, Making, requests_in
from edits.loading import load
from evaluation.correction import FILE, Correction
from evaluation.report import checked
from evaluation.request import before_and_after
from evaluation.tasks.destinations import Destinations
from evaluation.tasks.task import Task
from files import counted
from models.language_model import LanguageModel

log = logging.getLogger(__name__)

MOST = 50
"""Facts that are shown."""


class Held(Task):
    """A task with edits in files; the editor that made them reads them, if one is named."""

    def check(self, editors: Sequence[str]) -> None:
        """Refuse more than the editor that made the edits.

        Raises:
            ValueError: there are several.
        """
        if len(editors) > 1:
            raise ValueError(f"editors={list(editors)}: at most the one that made the edit")

    def run(
        self,
        language_model: LanguageModel,
        editors: Mapping[str, Editor],
        folder: Path,
        console: Console,
    ) -> None:
        """As `Task.run`."""
        self.do(language_model, next(iter(editors.values()), None), folder, console)

    @abstractmethod
    def do(
        self, language_model: LanguageModel, editor: Editor | None, folder: Path, console: Console
    ) -> None:
        """The same, with the one editor."""


class Show(Held):
    """Says what an edit is: its facts, who made it when and how, for which model, how large.

    Args:
        edit: file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no file is named.
    """

    def __init__(self, *, edit: str | None):
        self.path = _file("edit", edit)

    def do(
        self, language_model: LanguageModel, editor: Editor | None, folder: Path, console: Console
    ) -> None:
        """See `Show`; the edit need not be one of this model."""
        owner, history = storage.about(self.path)
        grid = Table(title=Text(str(self.path)), show_header=False, box=None, title_justify="left")
        grid.add_row("  editor", Text(owner.editor))
        grid.add_row("  model", Text(f"{owner.base or '?'} ({owner.model})"))
        for (date, by, errata, settings), makings in groupby(history, _how):
            count = counted(sum(len(making.requests) for making in makings), "fact")
            grid.add_row(f"  {date}", Text(f"{count} by {by}, Errata {errata}"))
            for name, value in settings.items():
                grid.add_row("", Text(f"{name}: {value}", style="dim"))
        for layer, norm in _norms(self.path).items():
            grid.add_row("  norm", Text(f"{norm:.4g} in {layer}"))
        console.print(grid)
        console.print(_facts(history))


class Undo(Held):
    """Takes facts out of an edit, as if they had not been made, and checks what is left.

    Args:
        edit: file.
        prompts: of the facts that go.
        requests: or a file of these facts.
        save: file for what is left; None: `FILE` in the run's folder.
        bystanders: as `Apply` takes them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no fact is named, or there is something where the result is to go.
    """

    def __init__(
        self,
        *,
        edit: str | None,
        prompts: Sequence[str] = (),
        requests: str | None = None,
        save: str | None = None,
        bystanders: Bystanders | None = None,
    ):
        self.path = _file("edit", edit)
        self.prompts = _list("undo.prompts", prompts)
        if requests is not None:
            facts = RequestsData().read(requests).records
            self.prompts += [request.prompt for request in requests_of(facts)]
        if not self.prompts:
            raise ValueError("undo.prompts is empty: name the facts that go by their prompts")
        self.destinations = Destinations(save)
        self.bystanders = bystanders or Bystanders()

    def do(
        self, language_model: LanguageModel, editor: Editor | None, folder: Path, console: Console
    ) -> None:
        """See `Undo`."""
        whole = _loaded(self.path, language_model, editor, self.bystanders)
        rest = whole.without(self.prompts)
        title = f"{self.path} without {counted(len(self.prompts), 'fact')}"
        console.print(before_and_after(title, language_model, rest.edit, self.prompts[:MOST]))
        _deliver(rest, self.destinations, "what is left", folder, console)


class Stack(Held):
    """Puts several edits into one, and checks the facts of all.

    Args:
        edits: files, of one model.
        save: file for the sum; None: `FILE` in the run's folder.
        bystanders: as `Apply` takes them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there are fewer than two, or there is something where the sum is to go.
    """

    def __init__(
        self,
        *,
        edits: Sequence[str],
        save: str | None = None,
        bystanders: Bystanders | None = None,
    ):
        self.paths = [_file("edits", path) for path in _list("edits", edits)]
        if len(self.paths) < 2:
            raise ValueError(f"edits={list(edits)}: expected two files or more")
        self.destinations = Destinations(save)
        self.bystanders = bystanders or Bystanders()

    def do(
        self, language_model: LanguageModel, editor: Editor | None, folder: Path, console: Console
    ) -> None:
        """See `Stack`."""
        parts = [_loaded(p, language_model, editor, self.bystanders) for p in self.paths]
        title = " + ".join(path.name for path in self.paths)
        _deliver(reduce(Correction.plus, parts), self.destinations, title, folder, console)


class Ask(Held):
    """Puts questions to a model, before and after an edit.

    Args:
        edit: file; None: the unedited model answers alone.
        prompts: questions.
        file: of further ones, a line each.
        max_new_tokens: of an answer, at most.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no question.
    """

    def __init__(
        self,
        *,
        edit: str | None = None,
        prompts: Sequence[str] = (),
        file: str | None = None,
        max_new_tokens: int = 32,
    ):
        self.path = None if edit is None else _file("edit", edit)
        self.prompts = _list("ask.prompts", prompts)
        if file is not None:
            lines = fetch(file).read_text(encoding="utf-8").splitlines()
            self.prompts += [line.strip() for line in lines if line.strip()]
        if not self.prompts:
            raise ValueError("ask.prompts is empty: ask something, or name a file of questions")
        self.max_new_tokens = max_new_tokens

    def do(
        self, language_model: LanguageModel, editor: Editor | None, folder: Path, console: Console
    ) -> None:
        """See `Ask`."""
        edit = NOTHING if self.path is None else _read(self.path, language_model, editor)
        title = f"{language_model.name}, {self.path or 'unedited'}"
        console.print(
            before_and_after(title, language_model, edit, self.prompts, self.max_new_tokens)
        )


def _file(setting: str, path: str | None) -> Path:
    if path is None:
        raise ValueError(f"{setting} is missing: name the file of an edit, as in {setting}=FILE")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{setting}={path}: there is no such file")
    return Path(path)


def _list(setting: str, values: Sequence[str]) -> list[str]:
    if isinstance(values, str):
        raise ValueError(f"{setting}={values}: expected a list, as in '{setting}=[\"...\"]'")
    return list(map(str, values))


def _read(path: Path, language_model: LanguageModel, editor: Editor | None) -> Edit:
    return editor.load(path) if editor else load(path, language_model)


def _loaded(
    path: Path, language_model: LanguageModel, editor: Editor | None, bystanders: Bystanders
) -> Correction:
    _, history = storage.about(path)
    if not history:
        raise ValueError(f"{path} does not say which facts it holds: it was made without a history")
    edit = _read(path, language_model, editor)
    return Correction(language_model, edit, history, bystanders=bystanders)


def _deliver(
    correction: Correction,
    destinations: Destinations,
    title: str,
    folder: Path,
    console: Console,
) -> None:
    """Check an edit, show that, and keep both."""
    check = correction.check()
    checked.write(check, folder)
    console.print(checked.tables(check, title))
    destinations.write(correction, folder / FILE)


def _norms(path: Path) -> dict[str, float]:
    """Frobenius norms of what an edit of weights adds to each layer, of its first edit."""
    try:
        norms = load(path).norms()
    except ValueError:  # it takes the editor that made it to read it
        return {}
    return {layer: float(norm[0]) for layer, norm in norms.items()}


def _how(making: Making) -> tuple[str, str, str, Mapping]:
    """What consecutive makings have in common: the day, the editor, the version, the settings."""
    return making.date[:10], making.editor, making.errata, making.settings


def _facts(history: History) -> Table:
    requests = requests_in(history)
    more = len(requests) - MOST
    table = Table(
        title=counted(len(requests), "fact"),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption=f"and {more:,} more" if more > 0 else None,
        caption_justify="left",
    )
    for column in ("prompt", "subject", "target"):
        table.add_column(column, overflow="fold")
    for request in requests[:MOST]:
        table.add_row(*map(Text, (request.prompt, request.subject, request.target)))
    return table
