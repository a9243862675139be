"""The encoder of a scope classifier: a model from Hugging Face, or a copy of the base model."""

# B texts, T tokens, d width of a text's embedding

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

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
        self._separator = separator or cast("str | None", tokenizer.sep_token)

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
        for text, text_ids in zip(texts, ids, strict=True):
            if len(text_ids) > self.max_length:
                raise ValueError(
                    f"the text {text[:40]!r}... makes {len(text_ids)} tokens; "
                    f"the encoder {self.name!r} takes at most {self.max_length}"
                )
        pad_id = cast("int | None", self.tokenizer.pad_token_id) or 0
        batch = pad_right(ids, [[] for _ in ids], pad_id)
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
        model: see `Texts`, also for the next four.
        tokenizer: see there.
        max_length: see there.
        name: see there.
        separator: see there.
        pooling: which of the model's outputs it is: the ``"first"`` or the ``"last"`` token's
            state, the ``"mean"`` of all tokens' states, or the output of the model's ``"pooler"``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        name: str,
        separator: str | None = None,
        *,
        pooling: str = "first",
    ):
        super().__init__(model, tokenizer, max_length, name, separator)
        one_of("pooling", pooling, POOLINGS)
        self.pooling = pooling
        if pooling != "pooler" and "pooler" in dict(self.model.named_children()):
            self.model.register_module("pooler", None)  # no loss would train it

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

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        name: str,
        separator: str | None = None,
        *,
        pooling: str = "first",
    ):
        super().__init__(model, tokenizer, max_length, name, separator, pooling=pooling)
        self.head = nn.Linear(self.model.config.hidden_size, 2)
        nn.init.zeros_(self.head.weight)

    def logits(self, texts: Sequence[str]) -> Tensor:
        """Logits ``[B, 2]``; differentiable."""
        return self.head(self.pooled(texts))


def in_parts(rows: Callable[[Sequence[str]], Tensor], texts: Sequence[str]) -> Tensor:
    """``rows`` of any number of texts, of which at most `TEXTS_AT_ONCE` go through at once."""
    starts = range(0, len(texts), TEXTS_AT_ONCE)
    return torch.cat([rows(texts[at : at + TEXTS_AT_ONCE]) for at in starts])


def copied_body(language_model: LanguageModel, blocks: int | None) -> PreTrainedModel:
    """A copy of the base model without its head, of its first ``blocks`` blocks (None: all).

    Raises:
        ValueError: it has not so many blocks.
    """
    model = language_model.model
    encodes = model.config.is_encoder_decoder
    body = cast(PreTrainedModel, model.get_encoder() if encodes else model.base_model)
    body = copy.deepcopy(body).float()
    name, stack = next((n, m) for n, m in body.named_modules() if isinstance(m, nn.ModuleList))
    if blocks is not None:
        if not 1 <= blocks <= len(stack):
            raise ValueError(f"encoder_blocks must be from 1 to {len(stack)}, got {blocks}")
        body.set_submodule(name, stack[:blocks])
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
