"""Training a small language model from nothing, so that there are facts it knows and can be edited.

Whatever text a datamodule yields (Atlas, or the true facts of a file of records) is learned by plain
next-token prediction. ``python train.py experiment=atlas_model`` makes the model that is shipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import lightning as L
import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from models.language_model import LanguageModel

END = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of ``vocabulary`` tokens learned from ``texts``; one special token, the end."""
    bpe = ByteLevelBPETokenizer()
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
    """
    tokenizer = train_tokenizer(text.documents(0), vocabulary)
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shape,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return LanguageModel(model, tokenizer, name=name)


class Pretraining(L.LightningModule):
    """Next-token prediction over batches ``{"input_ids", "attention_mask"}``, right padded.

    Args:
        language_model: trained in place; the only place in this project where that happens.
        lr: peak of a schedule that warms up linearly and then falls along a cosine to a tenth.
        warmup: optimiser steps of the warm-up.
        weight_decay: of matrices; biases, gains and embeddings have none.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        lr: float = 2e-3,
        warmup: int = 200,
        weight_decay: float = 0.01,
    ):
        super().__init__()
        self.language_model = language_model
        self.lr = lr
        self.warmup = warmup
        self.weight_decay = weight_decay
        language_model.model.requires_grad_(True).train()

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        """Mean negative log-likelihood (nats per token)."""
        loss = self.nll(batch)
        self.log("train/nll", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        """Logs the perplexity of text that training does not contain."""
        tokens = batch["attention_mask"][:, 1:].sum().item()
        self.log("val/nll", self.nll(batch), prog_bar=True, batch_size=tokens)

    def nll(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean negative log-likelihood (nats) of all tokens but the first of each row."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        logits = self.language_model.model(ids, attention_mask=mask, use_cache=False).logits
        targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        return torch.nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), targets.flatten(), ignore_index=-100
        )

    def configure_optimizers(self):
        """AdamW with warm-up and cosine decay over the whole run."""
        matrices, rest = [], []
        embedding = self.language_model.model.get_input_embeddings().weight
        for parameter in self.language_model.model.parameters():
            decayed = parameter.ndim == 2 and parameter is not embedding
            (matrices if decayed else rest).append(parameter)
        optimizer = torch.optim.AdamW(
            [{"params": matrices}, {"params": rest, "weight_decay": 0.0}],
            lr=self.lr,
            betas=(0.9, 0.98),
            weight_decay=self.weight_decay,
        )
        total = self.trainer.estimated_stepping_batches

        def factor(step: int) -> float:
            if step < self.warmup:
                return (step + 1) / self.warmup
            done = min(1.0, (step - self.warmup) / max(1, total - self.warmup))
            return 0.1 + 0.45 * (1 + math.cos(math.pi * done))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_end(self) -> None:
        """Freezes the model again."""
        self.language_model.model.requires_grad_(False).eval()
