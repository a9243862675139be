"""How a model takes a prompt and a target: as one sequence, or one in each of its two stacks."""

# B rows, T tokens, d hidden width, V vocabulary

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerFast

from models.asked import Asked, branched
from models.encoding import Batch, TokenIds, pad_left, pad_right
from models.families import family_of
from models.generation import end_tokens, greedy


class Form(ABC):
    """What `LanguageModel` leaves to the kind of model it has.

    Args:
        model: who is asked.
        tokenizer: its tokenizer.
        ids: token ids of texts.
    """

    stacks = 1
    """How many sequences are padded for a row."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, ids: TokenIds):
        self.model = model
        self.tokenizer = tokenizer
        self.ids = ids
        self.family = family_of(model.config)

    @property
    def pad_id(self) -> int:
        """Any id would do: padding is masked."""
        return cast("int | None", self.tokenizer.pad_token_id) or 0

    @property
    def ends(self) -> list[int]:
        """Ids that end an answer."""
        return sorted({*end_tokens(self.model, self.tokenizer), *self.ids.stops})

    def head(self, hidden: Tensor) -> Tensor:
        """Logits ``[..., V]`` of hidden states ``[..., d]``, in float32 at least."""
        logits = self.family.logits(self.model, hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @abstractmethod
    def target_ids(
        self, prompts: Sequence[str], targets: Sequence[str], ended: bool
    ) -> list[list[int]]:
        """The ids of each target that are to be predicted; see `TokenIds`.

        ``ended``: with the end that the rendering puts behind what an editor makes true.
        """

    @abstractmethod
    def length(self, prompt: int, answer: int) -> int:
        """Tokens of the longest sequence for a prompt and an answer with that many tokens."""

    @abstractmethod
    def batch(self, prompts: Sequence[list[int]], targets: Sequence[list[int]]) -> Batch:
        """The ids as the model takes them, on the CPU."""

    @abstractmethod
    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states ``[B, T, d]`` before the output head; differentiable."""

    @abstractmethod
    def asked_length(self, prompt: int, answers: Sequence[int]) -> int:
        """Tokens that are read for a prompt and all of its answers, of these lengths."""

    @abstractmethod
    def asked(self, prompts: Sequence[list[int]], targets: Sequence[Sequence[list[int]]]) -> Asked:
        """Prompts with all targets that are asked for behind each, on the CPU."""

    @abstractmethod
    def asked_hidden(self, asked: Asked) -> Tensor:
        """As `hidden`, of `asked`."""

    @abstractmethod
    def start(self, prompts: Sequence[list[int]]) -> Batch:
        """What is read before an answer's first token, which the last position predicts."""

    @abstractmethod
    def answers(
        self, start: Batch, max_new_tokens: int, stopped: Callable[[int, list[int]], bool] | None
    ) -> list[list[int]]:
        """The ids of each greedy answer to what `start` gave, up to the end; see `greedy`."""

    @abstractmethod
    def text(self, prompt: list[int], answer: list[int]) -> str:
        """An answer's text."""

    def _decoded(self, ids: list[int]) -> str:
        text = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return cast(str, text)  # of one row


class DecoderOnly(Form):
    """The target continues the prompt, in one sequence."""

    def target_ids(
        self, prompts: Sequence[str], targets: Sequence[str], ended: bool
    ) -> list[list[int]]:
        """The ids of each target as it continues its prompt; see `TokenIds.targets`."""
        ending = self.ids.ending if ended else []
        return [[*ids, *ending] for ids in self.ids.targets(prompts, targets)]

    def length(self, prompt: int, answer: int) -> int:
        """Both."""
        return prompt + answer

    def batch(self, prompts: Sequence[list[int]], targets: Sequence[list[int]]) -> Batch:
        """Each prompt with its target behind it."""
        return pad_right(prompts, targets, self.pad_id)

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states ``[B, T, d]`` before the output head; differentiable."""
        states = self.model.base_model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        )
        return states.last_hidden_state

    def asked_length(self, prompt: int, answers: Sequence[int]) -> int:
        """The prompt once, and each answer without its last token."""
        return prompt + sum(length - 1 for length in answers)

    def asked(self, prompts: Sequence[list[int]], targets: Sequence[Sequence[list[int]]]) -> Asked:
        """A prompt is read once for all of its targets."""
        return branched(prompts, targets, self.pad_id)

    def asked_hidden(self, asked: Asked) -> Tensor:
        """As `hidden`; targets of one prompt do not see each other."""
        if asked.branch is None:
            return self.hidden(asked.batch)
        states = self.model.base_model(
            input_ids=asked.batch.input_ids,
            attention_mask=asked.bias(self.model.dtype),
            position_ids=asked.positions,
            use_cache=False,
        )
        return states.last_hidden_state

    def start(self, prompts: Sequence[list[int]]) -> Batch:
        """The prompts, padded on the left."""
        return pad_left(prompts, self.pad_id)

    def answers(
        self, start: Batch, max_new_tokens: int, stopped: Callable[[int, list[int]], bool] | None
    ) -> list[list[int]]:
        """Decoded from the prompts; positions count from each row's first token."""
        cache, before = self._before(len(start.input_ids))
        mask = torch.cat([before, start.attention_mask], dim=1)
        position = (mask.cumsum(1) - 1).clamp(min=0)[:, before.shape[1] :]  # [B, T]

        def step(ids: Tensor) -> Tensor:
            nonlocal mask, position, cache
            states = self.model.base_model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
            )
            cache = states.past_key_values
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            position = position[:, -1:] + 1
            return self.head(states.last_hidden_state[:, -1])

        return greedy(step, start.input_ids, self.ends, max_new_tokens, stopped)

    def _before(self, rows: int) -> tuple[Cache | None, Tensor]:
        """Keys and values of what is read already, and its mask ``[B, P]``: nothing is."""
        return None, torch.ones(rows, 0, dtype=torch.long, device=self.model.device)

    def text(self, prompt: list[int], answer: list[int]) -> str:
        """The new text; decoded behind its prompt, since SentencePiece drops a first blank."""
        return self._decoded(prompt + answer)[len(self._decoded(prompt)) :]
