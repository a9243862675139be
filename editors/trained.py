"""What all trained editors share: checkpoints, steps left out, and how they are judged on val."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor

from datamodules.records import Record
from editors.editor import Editor
from editors.validation import Validation
from models.language_model import LanguageModel


class TrainedEditor(Editor, L.LightningModule):
    """An editor that is trained; a batch is a list of records.

    Checkpoints hold the editor alone, and the fingerprint of the language model it belongs to:
    ``Method.load_from_checkpoint(path, language_model=language_model)``.

    Args:
        language_model: the model to edit.
        **training: as the family's `Settings` takes them.
    """

    Settings: ClassVar[type]
    """How the family is trained; a dataclass that has ``max_skipped`` among other things."""
    skipped_steps: Tensor  # [], optimiser steps left out for a non-finite gradient

    def __init__(self, language_model: LanguageModel, **training: Any):
        super().__init__()
        self.language_model = language_model
        self.training_settings = self.Settings(**training)
        self.validation = Validation()
        self.register_buffer("skipped_steps", torch.zeros((), dtype=torch.int64))
        self._skipped_in_a_row = 0

    @property
    def observed(self) -> bool:
        """Whether the method has all the statistics it needs."""
        return True

    # training

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave the step out, optimiser state included, if a gradient is not finite.

        Raises:
            RuntimeError: too many steps in a row were left out.
        """
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.log("train/grad_norm", norm)
        if norm.isfinite():
            self._skipped_in_a_row = 0
            return
        optimizer.zero_grad(set_to_none=True)  # a parameter without a gradient is not stepped
        self.skipped_steps += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= self.training_settings.max_skipped:
            raise RuntimeError(
                f"the gradient was not finite in {self._skipped_in_a_row} steps in a row (up to "
                f"step {self.global_step}): try a smaller lr or edit_lr, or float32"
            )

    # validation

    def validation_step(self, records: Sequence[Record], batch_index: int) -> None:
        """Judge an independent edit for each record by its probes."""
        if not self.observed:  # online statistics, in the sanity check before the first step
            return
        edit = self.edit_each([record.request for record in records])
        self.validation.update(self.language_model, edit, records)
        for name, metric in self.validation.metrics.items():
            self.log(f"val/{name}", metric, on_epoch=True, batch_size=len(records))

    def on_validation_epoch_end(self) -> None:
        """Log the one number by which checkpoints are compared."""
        if self.observed:
            self.log("val/score", self.validation.score(), sync_dist=True)

    # checkpoints

    def state_dict(self, *args: Any, **keywords: Any) -> dict[str, Any]:
        """The editor's own parameters and buffers, without the language model's."""
        state = super().state_dict(*args, **keywords)
        for key in [key for key in state if key.startswith("language_model.")]:
            del state[key]
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load what `state_dict` gives; the language model is none of it.

        Raises:
            ValueError: a tensor has another shape, or ``strict``, and something else is missing
                or left over.
        """
        try:
            found = super().load_state_dict(state_dict, strict=False, assign=assign)
        except RuntimeError as error:  # names the tensors of other shapes
            what = " ".join(str(error).split())
            raise ValueError(f"this is the state of a {self.name} set otherwise: {what}") from error
        missing = [key for key in found.missing_keys if not key.startswith("language_model.")]
        if strict and (missing or found.unexpected_keys):
            raise ValueError(
                f"this is the state of a {self.name} with other networks; "
                f"missing: {', '.join(missing[:3]) or 'nothing'}; "
                f"left over: {', '.join(found.unexpected_keys[:3]) or 'nothing'}"
            )
        return type(found)(missing, found.unexpected_keys)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note what the checkpoint holds, and which language model it belongs to."""
        checkpoint["editor"] = self.name
        checkpoint["language_model"] = {
            "name": self.language_model.name,
            "fingerprint": self.language_model.fingerprint,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this editor and belongs to this language model.

        Raises:
            ValueError: it is not, or does not.
        """
        known, ours = checkpoint.get("language_model"), self.language_model
        if known is None or checkpoint["editor"] != self.name:
            raise ValueError(f"this is no checkpoint of {self.name}")
        if known["fingerprint"] != ours.fingerprint:
            raise ValueError(
                f"the checkpoint belongs to the language model {known['name']!r} with fingerprint "
                f"{known['fingerprint']}, not to {ours.name!r} with {ours.fingerprint}"
            )
