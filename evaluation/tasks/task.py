"""The interface of every task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from editors.editor import Editor
from models.language_model import LanguageModel


class Task(ABC):
    """What is done with a language model and its editors.

    It is constructed from its settings alone, before anything is loaded.
    """

    def check(self, editors: Sequence[str]) -> None:
        """Refuse editors that the task has no use for, by their names.

        Raises:
            ValueError: there are none.
        """
        if not editors:
            raise ValueError("editors=[]: name some, as in 'editors=[mend,rome]'")

    @abstractmethod
    def run(
        self,
        language_model: LanguageModel,
        editors: Mapping[str, Editor],
        folder: Path,
        console: Console,
    ) -> None:
        """Do it.

        Args:
            language_model: as questions are put to it.
            editors: by the names that results show; of the same model, to which they may put their
                requests in another way.
            folder: the run's own, for whatever is written.
            console: where a person reads.
        """


class Reading(ABC):
    """What is done with the folders of runs that are through: no model is loaded for it.

    It is constructed from its settings alone.
    """

    def check(self, editors: Sequence[str]) -> None:
        """Refuse editors: those of the runs are there already.

        Raises:
            ValueError: there is one.
        """
        if editors:
            raise ValueError(f"editors={list(editors)}: this task reads runs, and takes none")

    @abstractmethod
    def run(self, folder: Path, console: Console) -> None:
        """Do it.

        Args:
            folder: the run's own, for whatever is written.
            console: where a person reads.
        """
