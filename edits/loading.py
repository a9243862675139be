"""The edit in a file, whatever kind of edit it is."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from edits import storage
from edits.codebook import Codebook
from edits.context import ContextEdit
from edits.edit import NOTHING, Edit
from edits.journal import Journal
from edits.masked import MaskedEdit
from edits.neurons import NeuronEdit
from edits.routing import RoutedEdit
from edits.sides import SideEdit
from edits.steps import StepsEdit
from edits.weights import WeightEdit
from files.schema import check
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
            SideEdit,
            MaskedEdit,
            type(NOTHING),
        )
    }
)
"""By the name that the kind has in files."""


def _edit(
    kind: type[Edit], state: dict[str, Any], tensors: dict[str, Tensor], source: storage.Source
) -> Edit:
    """The edit of a state, which has to be all that the edit itself would write."""
    check(state, kind.header, "header")
    for name, tensor in tensors.items():
        other = kind.dtypes.get(name)
        if tensor.dtype != other if other else not tensor.is_floating_point():
            expected = other or "floating-point numbers"
            raise ValueError(f"{name} holds {tensor.dtype}, expected {expected}")
    edit = kind.of_state(state, tensors, source)
    header, parts = edit.state()
    left_over = tensors.keys() ^ parts.keys()
    if left_over:
        raise ValueError(f"it has a tensor too many or too few: {min(left_over)}")
    if json.loads(json.dumps(header)) != state:
        raise ValueError("its header says more than the edit has")
    return edit


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
        edit = _edit(KINDS[owner.kind], state, tensors, source)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path}, an edit of {owner.editor}: {reason}") from error
    if language_model is None:
        return edit
    try:
        edit.check(language_model)
    except ValueError as error:
        raise ValueError(f"{path}, an edit of {owner.base!r}: {error}") from error
    return edit.to(language_model.device)
