"""Edits that look at a prompt once, and then add something to what a layer says, or nothing."""

# N edits, P parts of all of them, B rows, T tokens, d_in/d_out layer widths

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor

from edits.edit import Edit, Route
from edits.looking import Place, looking
from edits.rows import Added, shift_of
from models.hooks import (
    Output,
    compute_dtype,
    full_precision,
    hidden_of,
    unflattened,
    widened,
    with_hidden,
)
from models.language_model import LanguageModel


class GatedEdit(Edit):
    """N edits of the same layer; each has parts, of which a prompt is given one, or none.

    It is decided at the prompt's own tokens, so that an answer that is scored and one that is
    generated are the same; tokens that are generated keep the part that their prompt was given.

    Attributes:
        layer: linear map whose input decides, and to whose output a part adds.
    """

    layer: str

    @property
    @abstractmethod
    def parts(self) -> Added:
        """P parts: what each adds to the layer's output."""

    @abstractmethod
    def choose(self, given: Tensor, output: Tensor, prompt: Tensor, books: Tensor) -> Tensor:
        """The part of each row ``[B]``, -1 for none.

        Args:
            given: the layer's input ``[B, T, d_in]``.
            output: and its output ``[B, T, d_out]``, both in float32 at least.
            prompt: bool ``[B, T]``, tokens of the prompt.
            books: ``[B]``, the edit that each row sees, -1 for none.
        """

    def check(self, language_model: LanguageModel) -> None:
        """Whether the edit is one of this model.

        Raises:
            ValueError: another model, a layer that it lacks, or another shape.
        """
        super().check(language_model)
        if self.parts.shape != tuple(language_model.shape(self.layer)):
            raise ValueError(
                f"what is added to {self.layer!r} has shape {list(self.parts.shape)}; "
                f"the layer is {list(language_model.shape(self.layer))}"
            )

    def routes(
        self, language_model: LanguageModel, prompts: Sequence[str], rows: Tensor | None
    ) -> list[Route]:
        """One: the language model itself, with a hook on the layer."""
        return looking(
            language_model, self.layer, prompts, rows, lambda *seen: _Visit(self, *seen).look
        )


class _Visit:
    """A layer in one micro-batch: parts are chosen at the first pass, for those that follow too."""

    def __init__(self, edit: GatedEdit, books: Tensor, place: Place):
        self.edit, self.books, self.place = edit, books, place
        self.rows: Tensor | None = None

    def look(self, name: str, given: Tensor, output: Output) -> Output | None:
        """The output with the rows' parts added."""
        hidden = hidden_of(output)
        if self.rows is None:
            self.rows = self._chosen(given, hidden)
            dtype = compute_dtype(hidden.dtype)
            self.shift = shift_of(self.edit.parts, self.rows, hidden.device, dtype)
        if not (self.rows >= 0).any():
            return None
        return with_hidden(output, hidden + self.shift(given).to(hidden.dtype))

    def _chosen(self, given: Tensor, hidden: Tensor) -> Tensor:
        count = len(self.books)
        read, said = (widened(unflattened(x, count)) for x in (given, hidden))
        with full_precision(hidden.device):
            return self.edit.choose(
                read, said, self.place.prompt, self.books.to(hidden.device)
            ).cpu()
