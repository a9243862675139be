"""What all trained editors share: checkpoints, steps left out, and how they are judged on val."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self, TypeVar

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from datamodules.records import Record
from editors import pretrained
from editors.checkpoint_file import saved
from editors.editor import Editor
from editors.schedule import Schedule
from editors.settings import plain
from editors.sharding import averaged, same, shard
from editors.validation import Validation
from edits.edit import Edit
from files.hub import push
from files.schema import check, check_keys
from files.signatures import required, signature
from files.tensors import digest
from models.language_model import LanguageModel

E = TypeVar("E", bound=Edit)


class TrainedEditor(Editor[E], L.LightningModule):
    """An editor that is trained; a batch is a list of records.

    Checkpoints hold the editor alone, its settings as plain values, and the fingerprint of the
    language model it belongs to:
    ``Method.load_from_checkpoint(path, language_model=language_model)``.

    Args:
        language_model: the model to edit.
        training: how the editor is trained.
    """

    BUNDLES: ClassVar[Mapping[str, type]]
    """The dataclass of each argument of the constructor that is one, by the argument's name."""
    UNSAVED: ClassVar[tuple[str, ...]] = ("language_model",)
    """Arguments of the constructor that are no settings of what has been trained."""
    skipped_steps: Tensor  # [], optimiser steps left out for a non-finite gradient

    def __init__(self, language_model: LanguageModel, training: Schedule):
        super().__init__()
        self.save_hyperparameters(ignore=self.UNSAVED)
        self.save_hyperparameters(plain(self.hparams))
        self.language_model = language_model
        self.training_settings = training
        self.validation = Validation()
        self.register_buffer("skipped_steps", torch.zeros((), dtype=torch.int64))
        self._skipped_in_a_row = 0

    @property
    def in_step(self) -> bool:
        """Whether all processes make as many passes in training and validation."""
        return True

    def identity(self) -> dict[str, Any]:
        """Class, settings, and a digest of what has been learned; see `Editor.identity`."""
        tensors = digest(self.state_dict())
        return {"class": type(self).__qualname__, **plain(self.hparams), "tensors": tensors}

    # training

    def configure_model(self) -> None:
        """Share out the language model, once, where the strategy is `ModelParallelStrategy`.

        Raises:
            ValueError: how often the method asks the language model depends on its answers.
        """
        if self.device_mesh is not None and not self.language_model.sharded:
            if not self.in_step:
                raise ValueError(
                    f"a language model in parts (trainer=fsdp) is asked by all processes alike; "
                    f"{self.name} as it is set asks as its answers say: use trainer=ddp"
                )
            self.strict_loading = False  # the strategy misses the language model in checkpoints
            shard(self.language_model, self.device_mesh["data_parallel"])
            same(self._trained())

    def _trained(self) -> list[nn.Parameter]:
        """What is trained."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave the step out, optimiser state included, if a gradient is not finite.

        Raises:
            FloatingPointError: too many steps in a row were left out.
        """
        gradients = [p.grad for p in self._trained() if p.grad is not None]
        if self.device_mesh is not None:  # DDP does it by itself
            averaged(gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        self.log("train/grad_norm", norm)
        if norm.isfinite():
            self._skipped_in_a_row = 0
            return
        optimizer.zero_grad(set_to_none=True)  # a parameter without a gradient is not stepped
        self.skipped_steps += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= self.training_settings.max_skipped:
            raise FloatingPointError(
                f"the gradient was not finite in {self._skipped_in_a_row} steps in a row (up to "
                f"step {self.global_step}): try a smaller lr or edit_lr, or float32"
            )

    def draws(self, batch_index: int) -> np.random.Generator:
        """What a training step's random choices come from, in a resumed training the same."""
        seed = self.training_settings.seed
        return np.random.default_rng((seed, self.global_rank, self.global_step, batch_index))

    # validation

    def validation_step(self, records: Sequence[Record], batch_index: int) -> None:
        """Judge edits for the records by their probes."""
        self.judge(records)
        for prefix, validation in self.validations().items():
            for name in validation.metrics:
                metric = validation.metric(name)
                self.log(f"val/{prefix}{name}", metric, on_epoch=True, batch_size=len(records))

    def judge(self, records: Sequence[Record]) -> None:
        """Judge an independent edit for each record."""
        edits = self.make([record.requests for record in records])
        self.validation.update(self.language_model, edits, records)

    def validations(self) -> dict[str, Validation]:
        """What the edits of an epoch are judged by, given what is put before their metrics."""
        return {"": self.validation}

    def on_validation_epoch_end(self) -> None:
        """Log the one number by which checkpoints are compared."""
        scores = torch.stack([validation.score() for validation in self.validations().values()])
        self.log("val/score", 1 / (1 / scores).mean(), sync_dist=True)

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
        """Load what `state_dict` gives, which the language model is not a part of.

        Raises:
            ValueError: a tensor has another shape, or ``strict``, and something else is missing
                or left over.
        """
        for name, own in self.state_dict().items():
            value = state_dict.get(name, own)
            if value.is_floating_point() != own.is_floating_point():
                raise ValueError(f"this is no state of a {self.name}: {name} holds {value.dtype}")
        try:
            keys = super().load_state_dict(state_dict, strict=False, assign=assign)
        except RuntimeError as error:  # names the tensors of other shapes
            what = " ".join(str(error).split())
            raise ValueError(f"this is the state of a {self.name} set otherwise: {what}") from error
        missing = [key for key in keys.missing_keys if not key.startswith("language_model.")]
        if strict and (missing or keys.unexpected_keys):
            raise ValueError(
                f"this is the state of a {self.name} with other networks; "
                f"missing: {', '.join(missing[:3]) or 'nothing'}; "
                f"left over: {', '.join(keys.unexpected_keys[:3]) or 'nothing'}"
            )
        return type(keys)(missing, keys.unexpected_keys)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note what the checkpoint holds, and which language model it belongs to."""
        checkpoint["skipped_in_a_row"] = self._skipped_in_a_row
        checkpoint |= self._owner()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this editor and belongs to this language model.

        Raises:
            ValueError: it is not, or does not.
        """
        self._skipped_in_a_row = checkpoint.get("skipped_in_a_row", 0)
        self.training_cost = checkpoint.get("training_cost")
        known, ours = checkpoint.get("language_model"), self.language_model
        if known is None or checkpoint["editor"] != self.name:
            raise ValueError(f"this is no checkpoint of {self.name}")
        if known["fingerprint"] != ours.fingerprint:
            raise ValueError(
                f"the checkpoint belongs to the language model {known['name']!r} with fingerprint "
                f"{known['fingerprint']}, not to {ours.name!r} with {ours.fingerprint}"
            )

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, *more: Any, **keywords: Any) -> Self:
        """As Lightning's; bundles of settings are rebuilt from the plain values in the file.

        Raises:
            ValueError: it has settings that this editor does not know.
        """
        settings = (saved(Path(checkpoint_path)) or {}).get(cls.CHECKPOINT_HYPER_PARAMS_KEY, {})
        keywords = cls._settings(settings, checkpoint_path) | keywords
        return super().load_from_checkpoint(checkpoint_path, *more, **keywords)

    @classmethod
    def _settings(cls, values: Mapping[str, Any], source: str | Path) -> dict[str, Any]:
        """Arguments of the constructor, of plain values that a file holds.

        Raises:
            ValueError: one is missing, left over, or not what the constructor takes.
        """
        hints, bundles = signature(cls)[0], cls.BUNDLES
        try:
            check(values, dict, "settings")
            check_keys(values.keys(), hints, cls.__name__)
            for name in {*required(cls)} - {*cls.UNSAVED, *values}:
                raise ValueError(f"{name} is missing")
            for name, value in values.items():
                check(value, bundles.get(name, hints[name]), name)
            return {n: bundles[n](**v) if n in bundles else v for n, v in values.items()}
        except ValueError as error:
            raise ValueError(f"{source} has settings of another {cls.name}: {error}") from error

    def _owner(self) -> dict[str, Any]:
        model = self.language_model
        identity = {"name": model.name, "fingerprint": model.fingerprint}
        return {"editor": self.name, "language_model": identity}

    # folders

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the editor, without the language model, as a folder; see `pretrained.write`.

        Args:
            folder: that is not there yet.
            dtype: of the parameters in it, such as ``torch.float16``; None: as they are. Buffers
                keep theirs: sums over many keys are beyond half precision.
        """
        weights = self.state_dict()
        weights |= {n: p.detach().to(dtype) for n, p in self.named_parameters() if n in weights}
        pretrained.write(folder, weights, self._config())

    def push_to_hub(self, repository: str, private: bool = False) -> str:
        """Upload what `save_pretrained` writes, with a card; returns the repository's address.

        Raises:
            ValueError: the Hugging Face hub does not take it.
        """
        with TemporaryDirectory() as folder:
            draft = Path(folder) / repository.rpartition("/")[2]
            self.save_pretrained(draft)
            text = pretrained.card(repository, type(self), self._config())
            (draft / "README.md").write_text(text, encoding="utf-8")
            return push(draft, repository, private)

    def _config(self) -> dict[str, Any]:
        """What stands beside the weights in a folder."""
        cost = {"training_cost": dict(self.training_cost)} if self.training_cost else {}
        return {**self._owner(), "settings": plain(self.hparams), **cost}

    @classmethod
    def from_pretrained(
        cls, source: str | Path, language_model: LanguageModel, any_model: bool = False
    ) -> Self:
        """The editor in a folder, or under an id of the Hugging Face hub.

        Args:
            source: what `save_pretrained` wrote.
            language_model: the model it edits.
            any_model: take a language model that the editor was not trained for, if only its
                layers have the same shapes.

        Raises:
            FileNotFoundError: there is nothing.
            ValueError: it is of another editor or another language model.
        """
        weights, config = pretrained.read(source)
        known, ours = config["language_model"], language_model
        if config["editor"] != cls.name:
            raise ValueError(f"{source} holds {config['editor']!r}, not {cls.name!r}")
        if known["fingerprint"] != ours.fingerprint and not any_model:
            raise ValueError(
                f"{source} was trained for the language model {known['name']!r} with fingerprint "
                f"{known['fingerprint']}, not {ours.name!r} with {ours.fingerprint}; "
                "any_model=True takes it all the same"
            )
        editor = cls(language_model, **cls._settings(config["settings"], source))
        editor.load_state_dict(weights)
        editor.training_cost = config.get("training_cost")
        return editor.to(language_model.device).eval()
