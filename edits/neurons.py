"""Neuron edits: a few more neurons beside those of a block's feed-forward part."""

# N edits of k neurons each, B rows, T tokens, d_in/d_out widths of the feed-forward part

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from typing import Any, Self, TypedDict

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.activations import ACT2FN

from edits.edit import Edit, Route, State
from edits.rows import checked_rows, shift_of
from edits.storage import Source
from models.hooks import compute_dtype, hooked
from models.language_model import LanguageModel
from models.passes import Around

PARTS = ("keys", "biases", "values", "ups")


@dataclass(frozen=True, eq=False)
class Neurons:
    """N edits of k neurons: each adds ``act(x @ key + bias) * value``, if gated times ``x @ up``.

    Neurons of zeros add nothing.

    Args:
        keys: ``[N, k, d_in]``.
        biases: ``[N, k]``.
        values: ``[N, k, d_out]``.
        activation: its name in ``transformers``.
        ups: ``[N, k, d_in]`` of gated neurons; None: they are not gated.

    Raises:
        ValueError: the shapes do not fit together, or the activation is unknown.
    """

    keys: Tensor
    biases: Tensor
    values: Tensor
    activation: str
    ups: Tensor | None = None

    def __post_init__(self):
        if self.activation not in ACT2FN:
            raise ValueError(f"activation is {self.activation!r}, which transformers does not know")
        shape = self.keys.shape
        fits = len(shape) == 3 and self.biases.shape == shape[:2]
        fits = fits and self.values.ndim == 3 and self.values.shape[:2] == shape[:2]
        if not fits or (self.ups is not None and self.ups.shape != shape):
            shapes = {name: list(tensor.shape) for name, tensor in self.tensors.items()}
            raise ValueError(f"neurons need keys [N, k, d], and all else to fit, got {shapes}")

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All of them by name."""
        parts = {name: getattr(self, name) for name in PARTS}
        return {name: tensor for name, tensor in parts.items() if tensor is not None}

    @property
    def count(self) -> int:
        """K."""
        return self.keys.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """``(d_in, d_out)``."""
        return self.keys.shape[2], self.values.shape[2]

    def select(self, index: Tensor) -> Neurons:
        """The edits at ``index``, in that order."""
        return self._each(lambda x: x[index.to(x.device)])

    def kept(self, index: Sequence[int] | slice) -> Neurons:
        """Of each edit the neurons at ``index``."""
        return self._each(lambda x: x[:, index])

    def padded(self, count: int) -> Neurons:
        """The same edits, filled up to ``count`` neurons with such as add nothing."""
        more = count - self.count
        return self._each(lambda x: pad(x, (0, 0) * (x.ndim - 2) + (0, more)))

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Neurons:
        """The same edits there."""
        return self._each(lambda x: x.to(device, dtype))

    def shared(self) -> Callable[[Tensor], Tensor]:
        """The map of the one edit, for inputs of any shape."""
        one = self._each(lambda x: x[0])
        return lambda x: one._added(x, one.biases)

    def rowwise(self, rows: Tensor) -> Callable[[Tensor], Tensor]:
        """The map ``[B, T, d_in] -> [B, T, d_out]`` in which row b sees edit ``rows[b]``."""
        each = self._each(lambda x: x[rows])
        return lambda x: each._added(x, each.biases[:, None])

    def _added(self, x: Tensor, biases: Tensor) -> Tensor:
        """What they add, their tensors being such as fit ``x``."""
        active = ACT2FN[self.activation](x @ self.keys.mT + biases)
        return (active if self.ups is None else active * (x @ self.ups.mT)) @ self.values

    def joined(self, others: Sequence[Neurons], dim: int) -> Neurons:
        """Those of all: one edit behind another (0), or edit by edit, neuron by neuron (1).

        Raises:
            ValueError: they are of different kinds.
        """
        for other in others:
            if (other.activation, other.ups is None) != (self.activation, self.ups is None):
                raise ValueError("neurons of different activations cannot be joined")
        parts = {
            name: torch.cat([tensor, *(o.tensors[name].to(tensor) for o in others)], dim)
            for name, tensor in self.tensors.items()
        }
        return Neurons(activation=self.activation, **parts)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Neurons:
        """Of tensors that are changed alike; what comes out is not checked."""
        copy = object.__new__(Neurons)
        copy.__dict__.update(vars(self), **{n: change(x) for n, x in self.tensors.items()})
        return copy


@dataclass(frozen=True)
class Patched:
    """A request with neurons of its own, and how many."""

    prompt: str
    target: str
    neurons: int


class NeuronHeader(TypedDict):
    """What a file says of neuron edits; requests are `Patched`."""

    given: str
    layer: str
    activation: str
    requests: list[list[tuple[str, str, int]]]


@dataclass(frozen=True, eq=False, repr=False)
class NeuronEdit(Edit):
    """N edits of one model, each of them k neurons beside one feed-forward part.

    Args:
        neurons: theirs.
        given: name of a layer that sees what the feed-forward part is given.
        layer: name of the layer whose output is the part's.
        editor: name of the editor that made it.
        model: fingerprint of the language model it was made for.
        requests: for each edit the requests that have neurons of their own, in the order of these;
            empty where neurons belong to all requests.

    Raises:
        ValueError: requests are not one to one with edits, or have more neurons than there are.
    """

    kind = "neurons"
    header = NeuronHeader
    neurons: Neurons
    given: str
    layer: str
    editor: str
    model: str
    requests: tuple[tuple[Patched, ...], ...] = ()

    def __post_init__(self):
        if not self.requests:
            return
        few = min((patched.neurons for edit in self.requests for patched in edit), default=0)
        if (
            len(self.requests) != len(self)
            or not 0 <= few <= max(self.counts) <= self.neurons.count
        ):
            raise ValueError(
                f"{len(self)} edits of {self.neurons.count} neurons do not fit their requests"
            )

    def __len__(self) -> int:
        return len(self.neurons)

    @property
    def counts(self) -> list[int]:
        """How many neurons each edit has, without those that fill up."""
        if not self.requests:
            return [self.neurons.count] * len(self)
        return [sum(patched.neurons for patched in edit) for edit in self.requests]

    @property
    def layers(self) -> tuple[str, ...]:
        """The one that speaks otherwise."""
        return (self.layer,)

    def select(self, index: Tensor | Sequence[int] | int) -> Self:
        """The edits at ``index``, in that order; a number gives that one edit."""
        index = torch.as_tensor([index] if isinstance(index, int) else index, dtype=torch.long)
        chosen = tuple(self.requests[n] for n in index.tolist()) if self.requests else ()
        most = max((self.counts[n] for n in index.tolist()), default=0)
        neurons = self.neurons.select(index).kept(slice(most))
        return replace(self, neurons=neurons, requests=chosen)

    @staticmethod
    def stack(edits: Sequence[NeuronEdit]) -> NeuronEdit:
        """All the edits in one value, in order, for rows to choose from.

        Raises:
            ValueError: there are none, or they are not of one place in one model.
        """
        if not edits:
            raise ValueError("there are no edits to stack")
        first, *others = edits
        for other in others:
            first._check_same_place(other)
        most = max(edit.neurons.count for edit in edits)
        one, *more = (edit.neurons.padded(most) for edit in edits)
        owned = all(edit.requests for edit in edits)
        requests = tuple(each for edit in edits for each in edit.requests) if owned else ()
        return replace(first, neurons=one.joined(more, 0), requests=requests)

    def plus(self, other: Edit) -> NeuronEdit:
        """Both at once, edit by edit: the neurons of both.

        Raises:
            ValueError: they are not of one place in one model, or differ in N.
        """
        if not isinstance(other, NeuronEdit):
            raise ValueError(f"an edit of {self.editor} goes on from edits of neurons only")
        self._check_same_place(other)
        if len(self) != len(other):
            raise ValueError(f"cannot add {len(other)} edits to {len(self)}: one to one only")
        return NeuronEdit.stack([self.select(n)._with(other.select(n)) for n in range(len(self))])

    def without(self, prompts: Sequence[str]) -> Self:
        """The one edit without the neurons of the requests that have these prompts.

        Those of later requests stay as they are, which were made beside the ones taken out.

        Raises:
            ValueError: there are several edits, neurons belong to all requests, or no request has
                such a prompt.
        """
        if not self.requests:
            return super().without(prompts)
        if len(self) != 1:
            raise ValueError(f"only a single edit can be taken from, got {len(self)}: select one")
        (held,) = self.requests
        for prompt in prompts:
            if prompt not in {patched.prompt for patched in held}:
                raise ValueError(f"no request of the edit has the prompt {prompt!r}")
        owners = [patched for patched in held for _ in range(patched.neurons)]
        index = [n for n, owner in enumerate(owners) if owner.prompt not in prompts]
        rest = tuple(patched for patched in held if patched.prompt not in prompts)
        return replace(self, neurons=self.neurons.kept(index), requests=(rest,))

    def to(self, device: torch.device) -> Self:
        """The same edits there."""
        return replace(self, neurons=self.neurons.to(device))

    @contextmanager
    def hooks(
        self, language_model: LanguageModel, rows: Tensor | Sequence[int] | None = None
    ) -> Iterator[None]:
        """Run the model with row b of each batch seeing edit ``rows[b]``, until the block ends.

        Rows of -1 see the unedited model, to the bit; without ``rows`` all see the one edit.
        Gradients flow to the neurons.

        Raises:
            ValueError: another model, other widths, or rows out of range.
        """
        self.check(language_model)
        with self._hooked(language_model, None if rows is None else checked_rows(rows, len(self))):
            yield

    def around(self, language_model: LanguageModel, rows: Tensor | None) -> Around:
        """For ``LanguageModel.score`` and ``generate``: caller's row i sees edit ``rows[i]``."""
        return lambda batch: self._hooked(
            language_model, None if rows is None else rows[batch.rows]
        )

    def routes(
        self, language_model: LanguageModel, prompts: Sequence[str], rows: Tensor | None
    ) -> list[Route]:
        """One: the language model itself, with hooks."""
        return [Route(range(len(prompts)), prompts, self.around(language_model, rows))]

    def check(self, language_model: LanguageModel) -> None:
        """Whether the edit is one of this model.

        Raises:
            ValueError: another model, a layer it lacks, or other widths.
        """
        super().check(language_model)
        widths = language_model.shape(self.given)[0], language_model.shape(self.layer)[1]
        if self.neurons.shape != widths:
            raise ValueError(
                f"neurons beside {self.layer!r} have widths {list(self.neurons.shape)}; "
                f"the feed-forward part has {list(widths)}"
            )

    def size(self, language_model: LanguageModel) -> dict[str, float]:
        """How many neurons there are, and how many numbers they are made of."""
        count = sum(self.counts)
        d_in, d_out = self.neurons.shape
        each = d_in * (1 if self.neurons.ups is None else 2) + 1 + d_out
        return {"neurons": float(count), "added_parameters": float(count * each)}

    def state(self) -> State:
        """Where the neurons stand, whose they are, and their tensors."""
        header = {
            "given": self.given,
            "layer": self.layer,
            "activation": self.neurons.activation,
            "requests": [[astuple(patched) for patched in edit] for edit in self.requests],
        }
        return header, self.neurons.tensors

    @classmethod
    def of_state(
        cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor], source: Source
    ) -> Self:
        """The edit that `state` was asked of.

        Raises:
            ValueError: tensors do not fit together.
        """
        requests = tuple(tuple(Patched(*each) for each in edit) for edit in header["requests"])
        keys, biases, values = (tensors[name] for name in PARTS[:3])
        neurons = Neurons(keys, biases, values, header["activation"], tensors.get("ups"))
        owner = source.owner
        return cls(neurons, header["given"], header["layer"], owner.editor, owner.model, requests)

    def _with(self, other: NeuronEdit) -> Self:
        """This one edit with the neurons of another one."""
        owned = self.requests and other.requests
        requests = ((*self.requests[0], *other.requests[0]),) if owned else ()
        editor = self.editor if self.editor == other.editor else f"{self.editor}+{other.editor}"
        neurons = self.neurons.joined([other.neurons], 1)
        return replace(self, neurons=neurons, editor=editor, requests=requests)

    @contextmanager
    def _hooked(self, language_model: LanguageModel, rows: Tensor | None) -> Iterator[None]:
        if rows is not None and not (rows >= 0).any():
            yield
            return
        weight = language_model.linear(self.layer).weight
        shift = shift_of(self.neurons, rows, weight.device, compute_dtype(weight.dtype))
        last: list[Tensor] = []

        def look(name: str, given: Tensor, output: Tensor) -> Tensor | None:
            if name == self.given:
                last[:] = [given]
                return None
            return output + shift(last[0]).to(output.dtype)

        with hooked(language_model.modules_of((self.given, self.layer)), look):
            yield

    def _check_same_place(self, other: NeuronEdit) -> None:
        if self.model != other.model:
            raise ValueError(f"edits of different models: {self.model} and {other.model}")
        if (self.given, self.layer) != (other.given, other.layer):
            raise ValueError(f"neurons of different places: {self.layer!r} and {other.layer!r}")
