"""The interface of every editor: requests in, an edit out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from datamodules.records import Request
from edits.edit import Edit
from edits.loading import load
from edits.weights import WeightEdit
from models.language_model import LanguageModel


class Editor(ABC):
    """Turns requests into an edit of a frozen language model.

    A method is constructed as ``Method(language_model, *, ...)`` with plain keyword arguments. Its
    ``edit`` and ``edit_each`` work under a caller's ``no_grad`` and leave the language model
    bit-equal; what they have to remember lives in the edit they return, never in the editor.
    """

    language_model: LanguageModel
    name: ClassVar[str]
    """The method's name in lower case; it stands in every result row."""

    def __init_subclass__(cls, **keywords):
        super().__init_subclass__(**keywords)
        cls.name = cls.__name__.lower()

    def prepare(self) -> None:  # noqa: B027
        """Do what is to be done once per language model, such as statistics; by default nothing.

        Where several processes run, all of them call it, since they may share the work.
        """

    @abstractmethod
    def edit(self, requests: Sequence[Request], after: WeightEdit | None = None) -> Edit:
        """One edit that makes all the requests true.

        Args:
            requests: what is to become true, all together.
            after: the edit that the model has already; the result holds it too.
        """

    @abstractmethod
    def edit_each(self, requests: Sequence[Request]) -> Edit:
        """N independent edits of the clean model, computed together: edit n is for request n."""

    def load(self, path: str | Path) -> Edit:
        """An edit of this editor that was saved; errors as of `edits.loading.load`."""
        return load(path, self.language_model)


def named(layers: Sequence[str]) -> list[str]:
    """The layers that a user names.

    Raises:
        ValueError: there are none, or a text stands where a list should.
    """
    if not layers or isinstance(layers, str):
        raise ValueError(f"layers: expected a list of names, got {layers!r}")
    return list(layers)


def one_of(name: str, value: str, known: Sequence[str]) -> None:
    """Refuse a setting that is none of ``known``.

    Raises:
        ValueError: it is none of them.
    """
    if value not in known:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")
