"""What goes through a layer in one forward pass, and the handle on its gradient.

One backward pass from a loss over B requests then gives every layer's keys and deltas, whose
products over tokens are the requests' weight gradients; no weight gradient is ever formed.
"""

# B requests, T tokens, d_in/d_out layer widths

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from models.hooks import hooked, unflattened
from models.language_model import LanguageModel


class Capture:
    """One layer's input and output in the forward pass made inside :func:`captured`."""

    def __init__(self, layer: str):
        self._layer = layer
        self._keys: Tensor | None = None
        self._output: Tensor | None = None

    @property
    def keys(self) -> Tensor:
        """The layer's input ``[B, T, d_in]``, detached.

        Raises:
            ValueError: the layer has not run.
        """
        return self._read(self._keys)

    @property
    def output(self) -> Tensor:
        """The layer's output ``[B, T, d_out]``; with gradients, what follows depends on it.

        Raises:
            ValueError: the layer has not run.
        """
        return self._read(self._output)

    def record(self, keys: Tensor, output: Tensor) -> None:
        """Keep the two of the first forward pass.

        Raises:
            ValueError: there was one already.
        """
        if self._keys is not None:
            raise ValueError(
                f"layer {self._layer!r} ran twice inside captured(); "
                "it takes one forward pass, without a generation"
            )
        self._keys, self._output = keys.detach(), output

    def _read(self, value: Tensor | None) -> Tensor:
        if value is None:
            raise ValueError(f"layer {self._layer!r} has not run inside captured()")
        return value


@contextmanager
def captured(
    language_model: LanguageModel, layers: Sequence[str], gradients: bool
) -> Iterator[dict[str, Capture]]:
    """Record the layers' inputs and outputs in the one forward pass made inside the block.

    With ``gradients`` the outputs are in the graph, which starts at the first of the layers::

        with captured(language_model, layers, gradients=True) as captures:
            loss = ...
            deltas = torch.autograd.grad(loss, [captures[layer].output for layer in layers])

    The gradient of the layer's weight is ``einsum("bti,bto->io", captures[layer].keys, delta)``.
    Hooks of an edit that was put in place before are part of the layer. Works under a caller's
    ``no_grad``; no parameter receives a gradient.

    Args:
        language_model: the model the pass will be made with.
        layers: names of linear maps.
        gradients: whether gradients of the outputs will be asked for.

    Raises:
        ValueError: an unknown layer, inference mode with ``gradients``, or (inside the block) a
            layer that ran twice or was read before it ran.
    """
    if gradients and torch.is_inference_mode_enabled():
        raise ValueError(
            "no gradients under torch.inference_mode(): use torch.no_grad() around the editor, "
            "Trainer(inference_mode=False) in Lightning"
        )
    captures = {layer: Capture(layer) for layer in layers}
    rows = 0  # of the running forward pass, as the embedding of its tokens saw them

    def embedded(name: str, ids: Tensor, output: Tensor) -> None:
        nonlocal rows
        rows = len(output)

    def capture(layer: str, given: Tensor, output: Tensor) -> Tensor:
        if gradients and not output.requires_grad:
            output = output.detach().requires_grad_()
        unflat = unflattened(output, rows)
        captures[layer].record(unflattened(given, rows), unflat)
        return output if unflat is output else unflat.view_as(output)

    with ExitStack() as stack:
        embeddings = {"": language_model.model.get_input_embeddings()}
        stack.enter_context(hooked(embeddings, embedded))
        stack.enter_context(hooked(language_model.modules_of(layers), capture))
        if gradients:
            stack.enter_context(torch.enable_grad())
        yield captures
