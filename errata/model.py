"""A language model, and the edit through which it is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from edits.edit import NOTHING, Edit
from evaluation.correction import Correction
from models.language_model import LanguageModel
from models.rendering import Rendering
from models.scores import Scores
from running import presets
from running.recognition import ANY, group_of


@dataclass(frozen=True, repr=False)
class Model:
    """A language model that is asked, edited or not; it is never written to.

    Args:
        language_model: it.
        group: its file of configs/model, by which presets are found.
        edit: through which it is seen.
    """

    language_model: LanguageModel
    group: str = ANY
    edit: Edit = NOTHING

    def __repr__(self) -> str:
        """Its name, and the edit."""
        seen = "" if self.edit is NOTHING else f", edited: {self.edit!r}"
        return f"<Model {self.language_model.name}{seen}>"

    def with_edit(self, edit: Edit | Correction) -> Model:
        """The same model, as the edit makes it; behind an edit that it has already, both.

        Raises:
            ValueError: the edit belongs to another model, or cannot be added to the earlier one.
        """
        value = edit.edit if isinstance(edit, Correction) else edit
        value.check(self.language_model)
        return replace(self, edit=self.edit.plus(value))

    def chat(self, system: str | None = None) -> Model:
        """The same model, to which texts are put in the tokenizer's chat template.

        Raises:
            ValueError: the tokenizer has none.
        """
        rendering = Rendering(render="chat", system=system)
        return replace(self, language_model=self.language_model.rendered(rendering))

    @overload
    def generate(self, prompts: str, **options: Any) -> str: ...
    @overload
    def generate(self, prompts: Sequence[str], **options: Any) -> list[str]: ...
    def generate(self, prompts: str | Sequence[str], **options: Any) -> str | list[str]:
        """What follows the prompt, or each of them, greedily.

        ``options`` are those of `EditedModel.generate`; errors, too.
        """
        alone = isinstance(prompts, str)
        edited = self.edit.edited(self.language_model)
        texts = edited.generate([prompts] if alone else prompts, **options)
        return texts[0] if alone else texts

    def score(self, prompts: Sequence[str], targets: Sequence[str], **options: Any) -> Scores:
        """How probable each target is behind its prompt; see `EditedModel.score`."""
        return self.edit.edited(self.language_model).score(prompts, targets, **options)


def load(
    source: str | PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast | None = None,
    *,
    dtype: str = "float32",
    attention: str = "eager",
    device: torch.device | str = "cpu",
) -> Model:
    """A language model to edit.

    Args:
        source: ``atlas`` or ``smollm2``, which need no hub; another file of configs/model; a folder
            or a hub id; or a model of transformers, which is taken over: its parameters no longer
            require gradients, and it stays in evaluation mode.
        tokenizer: that of a model of transformers.
        dtype: of a model that is loaded: a name of `models.loading.DTYPES`, such as ``auto``.
        attention: the same: ``eager``, or ``sdpa`` where the family has it.
        device: where it is put.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: its family is unknown, or a model of transformers lacks its tokenizer.
    """
    if not isinstance(source, str):
        if tokenizer is None:
            raise ValueError(f"tokenizer is missing: {type(source).__name__} comes without one")
        name = source.config.name_or_path or "model"
        return Model(LanguageModel(source, tokenizer, name), group_of(name))
    options = {"dtype": dtype, "attention": attention, "device": str(device)}
    return Model(presets.language_model(source, **options), group_of(source))
