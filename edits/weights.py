"""Weight edits: what an editor adds to linear maps, applied by hooks and never written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, TypedDict

import torch
from torch import Tensor
from torch.nn.functional import pad

from edits.adapter import export
from edits.edit import Edit, Route, State
from edits.merging import merge
from edits.rows import checked_rows, shift_of
from edits.storage import Source
from edits.updates import UPDATES, Dense, LowRank, stacked
from models.hooks import compute_dtype, hooked
from models.language_model import LanguageModel
from models.passes import Around
from models.quantised import is_quantised

PAST_KEYS = "past_keys"
SUMS = ".sums"


class WeightHeader(TypedDict):
    """What a file says of weight edits: the kind of each layer's update."""

    updates: dict[str, Literal["low_rank", "dense"]]


@dataclass(frozen=True, eq=False, repr=False)
class WeightEdit(Edit):
    """N edits of the same layers of one model: each layer's output grows by ``x @ update``.

    Args:
        updates: layer name to the layer's update; all with the same N.
        editor: name of the editor that made it.
        model: fingerprint of the language model it was made for.
        past_keys: layer name to ``[N, p, d_in]``, inputs of updated layers that an editor which
            edits the edited model once more is to spare; empty for most editors.
        sums: name to ``[N, ...]``, sums over what the edit was made of, which an editor that edits
            the edited model once more goes on with; those of two edits add up.

    Raises:
        ValueError: there is no update, they differ in N, or past keys do not fit the updates.
    """

    kind = "weights"
    header = WeightHeader
    updates: Mapping[str, LowRank | Dense]
    editor: str
    model: str
    past_keys: Mapping[str, Tensor] = field(default_factory=dict)
    sums: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self):
        if not self.updates:
            raise ValueError("a weight edit needs the update of at least one layer")
        counts = {name: len(update) for name, update in self.updates.items()}
        counts |= {name: len(sums) for name, sums in self.sums.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"updates must hold the same number of edits, got {counts}")
        for name, keys in self.past_keys.items():
            expected = name in counts and (len(self), self.updates[name].shape[0])
            if keys.ndim != 3 or expected != (keys.shape[0], keys.shape[2]):
                raise ValueError(
                    f"past keys of {name!r} have shape {list(keys.shape)}; "
                    "expected [N, p, d_in] of one of the updates"
                )

    def __len__(self) -> int:
        return len(next(iter(self.updates.values())))

    @property
    def layers(self) -> tuple[str, ...]:
        """Those whose weights change."""
        return tuple(self.updates)

    def select(self, index: Tensor | Sequence[int] | int) -> Self:
        """The edits at ``index``, in that order; a number gives that one edit."""
        index = torch.as_tensor([index] if isinstance(index, int) else index)
        return replace(
            self,
            updates={n: update.select(index) for n, update in self.updates.items()},
            past_keys={n: keys[index.to(keys.device)] for n, keys in self.past_keys.items()},
            sums={n: sums[index.to(sums.device)] for n, sums in self.sums.items()},
        )

    @staticmethod
    def stack(edits: Sequence[WeightEdit]) -> WeightEdit:
        """All the edits in one value, in order, for rows to choose from.

        A layer that only some of them change is changed by zero in the others. Where they have
        more past keys than others, the others get keys of zeros, which nothing has to be spared;
        where they have sums that others lack, these get zeros.

        Raises:
            ValueError: there are none, or they belong to different models.
        """
        if not edits:
            raise ValueError("there are no edits to stack")
        for edit in edits[1:]:
            edits[0]._check_same_model(edit)
        names = dict.fromkeys(name for edit in edits for name in edit.updates)
        remembered = dict.fromkeys(name for edit in edits for name in edit.past_keys)
        summed = dict.fromkeys(name for edit in edits for name in edit.sums)
        return WeightEdit(
            {name: _stack_layer(edits, name) for name in names},
            edits[0].editor,
            edits[0].model,
            {name: _stack_keys(edits, name) for name in remembered},
            {name: _stack_sums(edits, name) for name in summed},
        )

    def plus(self, other: WeightEdit) -> Self:
        """Both at once, edit by edit: edit n is edit n of each, with the keys and sums of both.

        Raises:
            ValueError: they belong to different models or differ in N.
        """
        self._check_same_model(other)
        if len(self) != len(other):
            raise ValueError(f"cannot add {len(other)} edits to {len(self)}: one to one only")
        updates = dict(self.updates)
        for name, update in other.updates.items():
            updates[name] = updates[name].plus(update) if name in updates else update
        keys = dict(self.past_keys)
        for name, more in other.past_keys.items():
            keys[name] = torch.cat([keys[name], more.to(keys[name])], 1) if name in keys else more
        sums = dict(self.sums)
        for name, more in other.sums.items():
            sums[name] = sums[name] + more.to(sums[name]) if name in sums else more
        editor = self.editor if self.editor == other.editor else f"{self.editor}+{other.editor}"
        return replace(self, updates=updates, editor=editor, past_keys=keys, sums=sums)

    def to(self, device: torch.device) -> Self:
        """The same edits there."""
        updates = {n: u.to(device, u.dtype) for n, u in self.updates.items()}
        keys = {n: keys.to(device) for n, keys in self.past_keys.items()}
        sums = {n: sums.to(device) for n, sums in self.sums.items()}
        return replace(self, updates=updates, past_keys=keys, sums=sums)

    @contextmanager
    def hooks(
        self, language_model: LanguageModel, rows: Tensor | Sequence[int] | None = None
    ) -> Iterator[None]:
        """Run the model with row b of each batch seeing edit ``rows[b]``, until the block ends.

        Rows of -1 see the unedited model, to the bit; without ``rows`` all see the one edit.
        Gradients flow to the updates.

        Raises:
            ValueError: another model, a layer it lacks, another shape, or rows out of range.
        """
        self.check(language_model)
        if rows is not None:
            rows = checked_rows(rows, len(self))
        with self._hooked(language_model, rows):
            yield

    def around(self, language_model: LanguageModel, rows: Tensor | Sequence[int] | None) -> Around:
        """For ``LanguageModel.score`` and ``generate``: caller's row i sees edit ``rows[i]``."""
        self.check(language_model)
        if rows is None:
            return lambda _: self._hooked(language_model, None)
        rows = checked_rows(rows, len(self))
        return lambda batch: self._hooked(language_model, rows[batch.rows])

    def routes(
        self, language_model: LanguageModel, prompts: Sequence[str], rows: Tensor | None
    ) -> list[Route]:
        """One: the language model itself, with hooks."""
        return [Route(range(len(prompts)), prompts, self.around(language_model, rows))]

    def norms(self) -> dict[str, Tensor]:
        """Frobenius norm of each layer's updates, ``[N]`` in float64, without those of biases."""
        return {name: update.norm() for name, update in self.updates.items()}

    def check(self, language_model: LanguageModel) -> None:
        """Whether the edit is one of this model.

        Raises:
            ValueError: another model, a layer it lacks, or another shape.
        """
        super().check(language_model)
        for name, update in self.updates.items():
            if update.shape != tuple(language_model.shape(name)):
                raise ValueError(
                    f"update of {name!r} has shape {list(update.shape)}; "
                    f"the layer is {list(language_model.shape(name))}"
                )

    def size(self, language_model: LanguageModel) -> dict[str, float]:
        """Frobenius norm of all updates, and its ratio to that of the layers' own weights.

        The norm alone where a layer is quantised.
        """
        update = sum(float(norm.square().sum()) for norm in self.norms().values()) ** 0.5
        weights = [language_model.stored(name).detach() for name in self.updates]
        if any(map(is_quantised, weights)):
            return {"update_norm": update}
        whole = sum(float(torch.linalg.vector_norm(w.double()).square()) for w in weights) ** 0.5
        return {"update_norm": update, "relative_norm": update / whole}

    def state(self) -> State:
        """The kind of each layer's update, and all tensors."""
        kinds = {name: update.kind for name, update in self.updates.items()}
        tensors = {f"{name}.{PAST_KEYS}": keys for name, keys in self.past_keys.items()}
        tensors |= {f"{name}{SUMS}": sums for name, sums in self.sums.items()}
        for name, update in self.updates.items():
            parts = {f"{name}.{part}": tensor for part, tensor in vars(update).items()}
            tensors |= {part: tensor for part, tensor in parts.items() if tensor is not None}
        return {"updates": kinds}, tensors

    @classmethod
    def of_state(
        cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor], source: Source
    ) -> Self:
        """The edit that `state` was asked of.

        Raises:
            ValueError: tensors are missing or do not fit together.
        """
        updates = {}
        for name, kind in header["updates"].items():
            names = {part: f"{name}.{part}" for part in _parts_of(kind)}
            parts = {part: tensors[key] for part, key in names.items() if key in tensors}
            if not parts:
                raise ValueError(f"it lists {name!r} but lacks its tensors")
            updates[name] = UPDATES[kind](**parts)
        names_of_keys = {name: f"{name}.{PAST_KEYS}" for name in updates}
        keys = {name: tensors[key] for name, key in names_of_keys.items() if key in tensors}
        own = (
            name for name in tensors if name.endswith(SUMS) and "/" not in name
        )  # no increment's
        sums = {name.removesuffix(SUMS): tensors[name] for name in own}
        return cls(updates, source.owner.editor, source.owner.model, keys, sums)

    def merge(self, language_model: LanguageModel, folder: str | Path) -> None:
        """Write the edited model as a Hugging Face folder, whole or not at all.

        The model in memory is not touched.

        Raises:
            ValueError: there are several edits, the folder holds something, the update holds NaN or
                infinity, or the weights' dtype is too coarse for it.
        """
        self.check(language_model)
        if len(self) != 1:
            raise ValueError(f"only a single edit can be merged, got {len(self)}: select one")
        self.check_finite()
        merge(language_model, self.updates, Path(folder))

    def export(
        self, language_model: LanguageModel, folder: str | Path, rank: int | None = None
    ) -> None:
        """Write the edit as a LoRA adapter of ``peft``, whole or not at all.

        Args:
            language_model: the model that the edit was made for.
            folder: it gets the adapter, and ``errata.json``, which says how exact it is.
            rank: at most, of each layer; by default all that updates consist of.

        Raises:
            ValueError: there are several edits, one holds NaN or infinity, the folder holds
                something, or the rank is not above 0.
        """
        self.check(language_model)
        if len(self) != 1:
            raise ValueError(f"only a single edit can be exported, got {len(self)}: select one")
        self.check_finite()
        export(language_model, self.updates, Path(folder), rank)

    @contextmanager
    def _hooked(self, language_model: LanguageModel, rows: Tensor | None) -> Iterator[None]:
        if rows is not None and not (rows >= 0).any():
            yield
            return
        modules = language_model.modules_of(self.updates)
        shifts = {
            name: shift_of(update, rows, weight.device, compute_dtype(weight.dtype))
            for name, update in self.updates.items()
            for weight in [language_model.stored(name)]
        }

        def add(name: str, given: Tensor, output: Tensor) -> Tensor:
            return output + shifts[name](given).to(output.dtype)

        with hooked(modules, add):
            yield

    def _check_same_model(self, other: WeightEdit) -> None:
        if self.model != other.model:
            raise ValueError(f"edits of different models: {self.model} and {other.model}")


def _parts_of(kind: str) -> list[str]:
    """The tensors of an update of a kind, the one that is always there first."""
    return [field.name for field in fields(UPDATES[kind])]


def _stack_layer(edits: Sequence[WeightEdit], name: str) -> LowRank | Dense:
    """One layer's updates of all the edits; rank 0 where an edit leaves the layer alone."""
    like = next(edit.updates[name] for edit in edits if name in edit.updates)
    return stacked(
        [edit.updates[name] if name in edit.updates else like.nothing(len(edit)) for edit in edits]
    )


def _stack_keys(edits: Sequence[WeightEdit], name: str) -> Tensor:
    """One layer's past keys of all the edits, filled up with zeros."""
    like = next(edit.past_keys[name] for edit in edits if name in edit.past_keys)
    parts = [
        edit.past_keys.get(name, like.new_zeros(len(edit), 0, like.shape[2])) for edit in edits
    ]
    most = max(keys.shape[1] for keys in parts)
    return torch.cat([pad(keys, (0, 0, 0, most - keys.shape[1])) for keys in parts])


def _stack_sums(edits: Sequence[WeightEdit], name: str) -> Tensor:
    """One name's sums of all the edits, zeros where one has none."""
    like = next(edit.sums[name] for edit in edits if name in edit.sums)
    shape = like.shape[1:]
    return torch.cat([edit.sums.get(name, like.new_zeros(len(edit), *shape)) for edit in edits])
