"""Training a small language model from nothing, so that there are facts it knows and can be edited.

Whatever text a datamodule yields (Atlas, or the true facts of a file of records) is learned by
plain next-token prediction. ``python train.py experiment=atlas_model`` makes the shipped model. An
encoder-decoder learns to answer prompts: ``python train.py experiment=facts_t5``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import cast

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedTokenizerFast,
)

from models.encoding import Batch
from models.families import family_of
from models.language_model import LanguageModel

END = "<|endoftext|>"


def train_tokenizer(
    texts: Iterable[str], vocabulary: int, blank_first: bool = False
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of ``vocabulary`` tokens; its one special token ends a document.

    With ``blank_first`` a text's first word has the tokens that it has within a text.
    """
    bpe = ByteLevelBPETokenizer(add_prefix_space=blank_first)
    bpe.train_from_iterator(
        texts, vocabulary, min_frequency=2, special_tokens=[END], show_progress=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token=END, eos_token=END, unk_token=END, pad_token=END
    )


def blank(
    text,
    *,
    vocabulary: int = 1024,
    family: str = "gpt2",
    seed: int = 0,
    name: str = "blank",
    **shape,
) -> LanguageModel:
    """An untrained language model for ``text.documents(0)``.

    Args:
        text: has ``documents(number) -> list[str]``.
        vocabulary: tokens of its byte-level BPE.
        family: Hugging Face model type.
        seed: of the initial weights.
        name: what result tables call it.
        shape: arguments of the family's configuration (``n_layer``, ``n_embd``, ...).

    Raises:
        ValueError: the family is unknown.
    """
    answers = family_of({"model_type": family, **shape}).encoder is not None
    tokenizer = train_tokenizer(text.documents(0), vocabulary, blank_first=answers)
    if answers:
        shape = {"decoder_start_token_id": tokenizer.eos_token_id, **shape}
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shape,
    )
    kind = AutoModelForSeq2SeqLM if answers else AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind.from_config(config, dtype=torch.float32)
    return LanguageModel(model, tokenizer, name=name)


def lengthened(language_model: LanguageModel, *, positions: int, name: str) -> LanguageModel:
    """A copy of GPT-2's shape that takes longer texts, to be trained on.

    The vectors of its new places repeat those of the last half of the old ones: places in a text
    that are as far apart then look alike, until training tells better.

    Args:
        language_model: what is copied.
        positions: tokens that the copy takes.
        name: what result tables call it.

    Raises:
        ValueError: it is of another family, or takes as long texts already.
    """
    model, old = language_model.model, language_model.max_length
    if language_model.family.name != "gpt2" or positions <= old:
        raise ValueError(
            f"positions: expected a GPT-2 with fewer than {positions}, got "
            f"{language_model.name!r} of family {language_model.family.name!r} with {old}"
        )
    config = copy.deepcopy(model.config)
    config.n_positions = positions
    weights, places = model.state_dict(), torch.arange(positions)
    places = torch.where(places < old, places, old // 2 + places % (old - old // 2))
    weights["transformer.wpe.weight"] = weights["transformer.wpe.weight"][places]
    longer = type(model)._from_config(config, dtype=torch.float32)
    longer.load_state_dict(weights)
    return LanguageModel(longer, language_model.tokenizer, name=name)


class Pretraining(L.LightningModule):
    """Next-token prediction over batches ``{"input_ids", "attention_mask"}``, right padded.

    The blocks' matrices are trained by Muon, whose orthogonal steps store facts in fewer passes
    than Adam's (Wang et al., "Muon Outperforms Adam in Tail-End Associative Memory Learning",
    https://arxiv.org/abs/2509.26030); embeddings, gains and biases by AdamW.

    Args:
        language_model: trained in place; the only place in this project where that happens.
        lr: of AdamW.
        muon_lr: of Muon.
        warmup: optimiser steps over which both rise linearly from 0.
        hold: share of the run after which both fall linearly, to a fiftieth.
        weight_decay: of Muon's matrices.

    Raises:
        ValueError: this PyTorch has no Muon.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        lr: float = 3e-3,
        muon_lr: float = 0.02,
        warmup: int = 200,
        hold: float = 0.5,
        weight_decay: float = 0.01,
    ):
        super().__init__()
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"pretraining needs torch >= 2.9 for Muon, got {torch.__version__}")
        self.automatic_optimization = False  # two optimisers
        self.language_model = language_model
        self.lr, self.muon_lr = lr, muon_lr
        self.warmup, self.hold = warmup, hold
        self.weight_decay = weight_decay

    def setup(self, stage: str) -> None:
        """Thaws the model."""
        self.language_model.model.requires_grad_(True)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Mean negative log-likelihood (nats per token)."""
        loss = self.nll(batch)
        optimizers = cast(list[LightningOptimizer], self.optimizers())
        schedules = cast(list[LRScheduler], self.lr_schedulers())
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        torch.nn.utils.clip_grad_norm_(self.language_model.model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        self.log("train/nll", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        """Logs the loss on text that training does not contain."""
        tokens = int(batch["attention_mask"][:, 1:].sum())
        self.log("val/nll", self.nll(batch), prog_bar=True, batch_size=tokens)

    def nll(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean negative log-likelihood (nats) of all tokens but the first of each row."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        # causal and right padded: padding is seen by nothing that counts, so it needs no mask
        logits = self.language_model.model(ids, use_cache=False).logits
        targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        return torch.nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), targets.flatten(), ignore_index=-100
        )

    def configure_optimizers(self):
        """Muon for the blocks' matrices, AdamW for the rest, one schedule for both."""
        model = self.language_model.model
        outside = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
        embeddings = {
            id(m.weight) for m in (model.get_output_embeddings(), *outside) if m is not None
        }
        matrices, rest = [], []
        for parameter in model.parameters():
            inside = parameter.ndim == 2 and id(parameter) not in embeddings
            (matrices if inside else rest).append(parameter)
        muon = torch.optim.Muon(
            matrices, self.muon_lr, weight_decay=self.weight_decay, adjust_lr_fn="original"
        )
        adam = torch.optim.AdamW(rest, self.lr, betas=(0.9, 0.98), weight_decay=0.0)
        total = self.trainer.estimated_stepping_batches
        if self.trainer.max_steps > 0:  # where each of the two optimisers' steps counts
            total = min(total, self.trainer.max_steps / 2)
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: self.factor(step, total))
            for optimiser in (muon, adam)
        ]
        return [muon, adam], schedules

    def factor(self, step: int, total: float) -> float:
        """Share of the peak step size at a step."""
        left = (total - step) / max(1.0, total * (1 - self.hold))
        risen = (step + 1) / self.warmup if self.warmup else 1.0
        return min(risen, max(0.02, min(1.0, left)))

    def on_fit_end(self) -> None:
        """Freezes the model again."""
        self.language_model.model.requires_grad_(False)
        self.language_model.__dict__.pop("fingerprint", None)


class AnswerPretraining(Pretraining):
    """Learning to answer: batches of prompts and targets, as `LanguageModel.encode` makes them.

    It is how MEND's and KE's authors fit T5 and BART to facts before they edit them.

    Args:
        language_model: see `Pretraining`.
        **settings: see `Pretraining`.
    """

    def nll(self, batch: Batch) -> Tensor:
        """Mean negative log-likelihood (nats) of the targets' tokens, given the prompts."""
        logits, targets, _ = self.language_model.target_logits(batch)
        return torch.nn.functional.cross_entropy(logits, targets)
