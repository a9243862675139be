"""The interface of every editor: requests in, an edit out."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, final

from datamodules.records import Request
from editors.settings import plain
from edits.edit import Edit
from edits.loading import load
from models.language_model import LanguageModel

E = TypeVar("E", bound=Edit)
Group = Sequence[Request]
"""Requests that one edit makes true together."""


class Editor(ABC, Generic[E]):
    """Turns requests into an edit of a frozen language model.

    A method is constructed as ``Method(language_model, *, ...)`` with keyword arguments, each of
    which it keeps as an attribute of the same name. It makes edits under a caller's ``no_grad`` and
    leaves the language model bit-equal; what it has to remember lives in the edits, never in the
    editor.
    """

    language_model: LanguageModel
    name: str
    """The method's name in lower case."""
    training_cost: Mapping[str, float] | None = None
    """Seconds, records and peak GiB of its training, where it is trained and they are known."""
    origin: str = ""
    """Where what it has learned comes from, and what it reached there; of one that learns."""
    at_subject: ClassVar[bool] = False
    """Whether it changes the model where a request's subject stands."""

    def __init_subclass__(cls, **keywords: Any):
        super().__init_subclass__(**keywords)
        cls.name = cls.__name__.lower()

    # what a method is

    @abstractmethod
    def compute(self, groups: Sequence[Group], after: E | None) -> E:
        """As `make`, whose checks the arguments have passed; the editor is prepared."""

    def prepare(self) -> None:
        """Do what is to be done once per language model, such as statistics; by default nothing.

        Where several processes run, all of them call it, since they may share the work.
        """

    def identity(self) -> dict[str, Any]:
        """What decides its edits, as JSON values: the class and the constructor's arguments.

        Corpora and pools are given by their fingerprints.
        """
        names = [name for name in arguments(type(self)) if name != "language_model"]
        return {"class": type(self).__qualname__, **{n: plain(getattr(self, n)) for n in names}}

    # what it does

    @final
    def make(self, groups: Sequence[Group], after: E | None = None) -> E:
        """N edits: edit n makes all the requests of ``groups[n]`` true.

        Args:
            groups: of requests.
            after: the edit that the model has already; the result holds it too. There is one group
                then.

        Raises:
            ValueError: a group without a request, no group, several with ``after``, or an edit of
                another model.
        """
        if not groups or not all(groups):
            raise ValueError("there are no requests to edit for")
        if after is not None:
            if len(groups) > 1 or len(after) != 1:
                raise ValueError(f"after: one edit goes on, got {len(after)} for {len(groups)}")
            after.check(self.language_model)
        self.prepare()
        return self.compute(groups, after)

    @final
    def edit(self, requests: Group, after: E | None = None) -> E:
        """One edit that makes all the requests true; see `make`."""
        return self.make([requests], after)

    @final
    def edit_each(self, requests: Sequence[Request]) -> E:
        """N independent edits of the clean model, computed together: edit n is for request n."""
        return self.make([[request] for request in requests])

    def load(self, path: str | Path) -> Edit:
        """An edit of this editor that was saved; errors as of `edits.loading.load`."""
        return load(path, self.language_model)


def alike(groups: Sequence[Group], most: int) -> list[list[int]]:
    """The numbers of groups that are of one size, ``most`` of them at a time."""
    sizes: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        sizes.setdefault(len(group), []).append(number)
    return [own[at : at + most] for own in sizes.values() for at in range(0, len(own), most)]


def arguments(kind: type) -> list[str]:
    """The names of a constructor's arguments."""
    return [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
