"""The encoder of a scope classifier: a model from Hugging Face, or a copy of the base model."""

# B texts, T tokens, d width of a text's embedding

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from editors.settings import one_of
from models.encoding import Batch, pad_right
from models.language_model import LanguageModel

POOLINGS = ("first", "last", "mean", "pooler")
TEXTS_AT_ONCE = 256


class Texts(nn.Module):
    """A text model with its tokenizer, of which all parameters are trained and dropout is off.

    Args:
        model: takes ``input_ids`` and ``attention_mask``.
        tokenizer: of the model.
        max_length: most tokens that the model takes.
        name: of the model, for errors.
        separator: what stands between two texts; by default the tokenizer's own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        name: str,
        separator: str | None = None,
    ):
        super().__init__()
        self.model = model.eval().requires_grad_()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.name = name
        self._separator = separator or tokenizer.sep_token

    @property
    def separator(self) -> str:
        """What stands between two texts.

        Raises:
            ValueError: the tokenizer has none, and none was given.
        """
        if not self._separator:
            raise ValueError(
                f"the tokenizer of {self.name!r} has no separator: "
                "choose another encoder, or set separator"
            )
        return self._separator

    def train(self, mode: bool = True) -> Texts:
        """Stays in evaluation mode: dropout is off in training too, as in the authors' code."""
        return super().train(False)

    def encode(self, texts: Sequence[str]) -> Batch:
        """The texts' tokens, padded on the right, on the model's device.

        Raises:
            ValueError: a text is longer than the model takes.
        """
        ids = self.tokenizer(list(texts), verbose=False)["input_ids"]
        for text, found in zip(texts, ids, strict=True):
            if len(found) > self.max_length:
                raise ValueError(
                    f"the text {text[:40]!r}... makes {len(found)} tokens; "
                    f"the encoder {self.name!r} takes at most {self.max_length}"
                )
        batch = pad_right(ids, [[] for _ in ids], self.tokenizer.pad_token_id or 0)
        return batch.to(self.model.device)


class PairTexts(Texts):
    """A text model with a head of two classes, as transformers makes them."""

    def logits(self, texts: Sequence[str]) -> Tensor:
        """Logits ``[B, 2]``; differentiable."""
        batch = self.encode(texts)
        return self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits


class Pooled(Texts):
    """A text model that gives one state ``[B, d]`` for each text.

    Args:
        texts: as `Texts` takes them.
        pooling: which of the model's outputs it is: the ``"first"`` or the ``"last"`` token's
            state, their ``"mean"``, or what the model's ``"pooler"`` makes of them.
        named: as `Texts` takes them.
    """

    def __init__(self, *texts: Any, pooling: str = "first", **named: Any):
        super().__init__(*texts, **named)
        one_of("pooling", pooling, POOLINGS)
        self.pooling = pooling
        if pooling != "pooler" and "pooler" in dict(self.model.named_children()):
            self.model.pooler = None  # it would be trained by nothing

    def pooled(self, texts: Sequence[str]) -> Tensor:
        """The states; differentiable."""
        batch = self.encode(texts)
        out = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        if self.pooling == "pooler":
            return out.pooler_output
        states, mask = out.last_hidden_state, batch.attention_mask
        if self.pooling == "first":
            return states[:, 0]
        if self.pooling == "last":
            return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
        weights = mask[..., None].to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)


class Encoder(Pooled):
    """Embeddings ``[B, d]`` of texts."""

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of any number of texts, which go through the model in parts."""
        return in_parts(self.pooled, texts)


class PairPooled(Pooled):
    """A text model with a linear head of two classes on its state; the head starts at 0."""

    def __init__(self, *texts: Any, **named: Any):
        super().__init__(*texts, **named)
        self.head = nn.Linear(self.model.config.hidden_size, 2)
        nn.init.zeros_(self.head.weight)

    def logits(self, texts: Sequence[str]) -> Tensor:
        """Logits ``[B, 2]``; differentiable."""
        return self.head(self.pooled(texts))


def in_parts(rows: Callable[[Sequence[str]], Tensor], texts: Sequence[str]) -> Tensor:
    """``rows`` of any number of texts, of which only so many go through a model at once."""
    starts = range(0, len(texts), TEXTS_AT_ONCE)
    return torch.cat([rows(texts[at : at + TEXTS_AT_ONCE]) for at in starts])


def copied_body(language_model: LanguageModel, blocks: int | None) -> PreTrainedModel:
    """A copy of the base model without its head, of its first ``blocks`` blocks (None: all).

    Raises:
        ValueError: it has not so many blocks.
    """
    model = language_model.model
    encodes = model.config.is_encoder_decoder
    body = copy.deepcopy(model.get_encoder() if encodes else model.base_model).float()
    name, found = next((n, m) for n, m in body.named_modules() if isinstance(m, nn.ModuleList))
    if blocks is not None:
        if not 1 <= blocks <= len(found):
            raise ValueError(f"encoder_blocks must be from 1 to {len(found)}, got {blocks}")
        body.set_submodule(name, found[:blocks])
    body.config.use_cache = False
    return body


def loaded(path: str, classifies: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, int]:
    """An encoder from a folder or from the hub, its tokenizer, and how many tokens it takes.

    Args:
        path: folder or hub id.
        classifies: with a head of two classes.

    Raises:
        FileNotFoundError: there is none.
    """
    local = Path(path).expanduser().is_dir()
    source = str(Path(path).expanduser()) if local else path
    kind = AutoModelForSequenceClassification if classifies else AutoModel
    heads = {"num_labels": 2} if classifies else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
        model = kind.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, local_files_only=local, **heads
        )
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(f"no encoder {path!r}: {reason}") from error
    config = model.config.to_dict()
    most = min(config.get("max_position_embeddings", tokenizer.model_max_length), 10**6)
    return model, tokenizer, min(most, tokenizer.model_max_length)
