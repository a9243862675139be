"""The edit in a file, whatever kind of edit it is."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

from edits import storage
from edits.codebook import Codebook
from edits.context import ContextEdit
from edits.edit import NOTHING, Edit
from edits.journal import Journal
from edits.neurons import NeuronEdit
from edits.routing import RoutedEdit
from edits.steps import StepsEdit
from edits.weights import WeightEdit
from models.language_model import LanguageModel

KINDS = MappingProxyType(
    {
        kind.kind: kind
        for kind in (
            WeightEdit,
            Journal,
            RoutedEdit,
            ContextEdit,
            StepsEdit,
            Codebook,
            NeuronEdit,
            type(NOTHING),
        )
    }
)
"""By the name that the kind has in files."""


def load(path: str | Path, language_model: LanguageModel | None = None, models: Any = None) -> Edit:
    """Read what `Edit.save` wrote, and check that it is an edit of ``language_model``.

    Args:
        path: of the file.
        language_model: it is then on the model's device; None: on the CPU, and nothing is checked.
        models: what the editor that made it brings along, where its edits need it: they are best
            read by that editor's own ``load``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an edit's file, is damaged, not of this model, or needs its editor.
    """
    path = Path(path)
    owner, state, tensors = storage.read(path)
    if owner.kind not in KINDS:
        raise ValueError(
            f"{path} holds an edit of the unknown kind {owner.kind!r}; "
            f"this code reads {', '.join(KINDS)}"
        )
    source = storage.Source(path, owner, models)
    try:
        edit = KINDS[owner.kind].of_state(state, tensors, source)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path}, an edit of {owner.editor}: {reason}") from error
    if language_model is None:
        return edit
    try:
        edit.check(language_model)
    except ValueError as error:
        raise ValueError(f"{path}, an edit of {owner.base!r}: {error}") from error
    return edit.to(language_model.device)
