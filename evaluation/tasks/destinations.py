"""Where an edit goes when a task is through with it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from evaluation.correction import Correction

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Destinations:
    """Files and folders that are not there yet, and a repository.

    Args:
        save: file for the edit.
        merge: folder for the edited model.
        export: folder for a LoRA adapter.
        push: repository of the Hugging Face hub for the edit.
        rank: of the adapter, at most; None: all that the edit consists of.

    Raises:
        ValueError: there is something already.
    """

    save: str | None = None
    merge: str | None = None
    export: str | None = None
    push: str | None = None
    rank: int | None = None

    def __post_init__(self):
        if self.save and Path(self.save).exists():
            raise ValueError(f"save={self.save} is there already; name another file")
        for name in ("merge", "export"):
            folder = getattr(self, name)
            if folder and Path(folder).exists() and not _is_empty(Path(folder)):
                raise ValueError(f"{name}={folder} holds something; name another folder")

    def write(self, correction: Correction, default: Path | None = None) -> None:
        """Put the edit wherever it is to go.

        Args:
            correction: the edit.
            default: file for it where no other is named; None: none.

        Raises:
            ValueError: edits of this kind cannot be merged or exported, or the hub refuses.
        """
        file = self.save or default
        if file:
            correction.save(file)
            log.info("saved the edit: %s", file)
        if self.merge:
            correction.merge(self.merge)
            log.info("wrote the edited model: %s", self.merge)
        if self.export:
            correction.export(self.export, self.rank)
            log.info("wrote the adapter: %s", self.export)
        if self.push:
            log.info("uploaded the edit: %s", correction.push_to_hub(self.push))


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())
