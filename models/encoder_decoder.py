"""Encoder-decoders such as T5 and BART: the encoder reads a prompt, the decoder answers it."""

# B rows, T tokens of the decoder, d hidden width

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from models.asked import Asked, each_alone
from models.encoding import Batch, TokenIds, pad_right
from models.families import UnsupportedModel
from models.forms import Form
from models.generation import greedy


class EncoderDecoder(Form):
    """The target is the decoder's answer, with the end token behind it.

    The decoder begins with the model's start token and with what the tokenizer puts before any
    text: nothing for T5, BOS for BART, as transformers trains them. All that is given and never
    scored, so that the first token scored is the target's own, and the last one is the end. An
    answer that goes on behind the target is therefore not the target.

    Raises:
        ValueError: the model lacks a stack, its head or its start token, or the tokenizer has no
            end token.
    """

    stacks = 2

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, ids: TokenIds):
        super().__init__(model, tokenizer, ids)
        if not model.config.is_encoder_decoder or model.get_output_embeddings() is None:
            raise ValueError(
                f"expected an encoder-decoder of family {self.family.name!r} with an output head, "
                f"such as its ForConditionalGeneration, got {type(model).__name__}"
            )
        start = model.generation_config.decoder_start_token_id
        if start is None:
            raise ValueError(f"{type(model).__name__} names no decoder_start_token_id")
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer of an encoder-decoder needs an end token")
        self.opening = [start, *ids.opening]

    def target_ids(
        self, prompts: Sequence[str], targets: Sequence[str], ended: bool
    ) -> list[list[int]]:
        """The ids of each target as a text of its own, and the end token, which is scored too."""
        end = cast(int, self.tokenizer.eos_token_id)
        return [[*ids, end] for ids in self.ids.answers(prompts, targets)]

    def length(self, prompt: int, answer: int) -> int:
        """The longer of the two."""
        return max(prompt, len(self.opening) + answer)

    def batch(self, prompts: Sequence[list[int]], targets: Sequence[list[int]]) -> Batch:
        """Prompts as the source; the decoder's start with the targets behind it."""
        source = pad_right(prompts, [[] for _ in prompts], self.pad_id)
        answer = pad_right([self.opening for _ in prompts], targets, self.pad_id)
        return Batch(answer.input_ids, answer.attention_mask, answer.labels, source)

    def hidden(self, batch: Batch) -> Tensor:
        """The decoder's hidden states ``[B, T, d]`` before the output head; differentiable.

        Raises:
            UnsupportedModel: the batch is one of running text.
        """
        if batch.source is None:
            raise UnsupportedModel(
                f"an encoder-decoder of family {self.family.name!r} answers prompts; "
                "it takes no running text"
            )
        states = self.model.get_decoder()(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            encoder_hidden_states=self._encoded(batch.source),
            encoder_attention_mask=batch.source.attention_mask,
            use_cache=False,
        )
        return states.last_hidden_state

    def asked_length(self, prompt: int, answers: Sequence[int]) -> int:
        """As many rows as there are answers."""
        return sum(self.length(prompt, answer) for answer in answers)

    def asked(self, prompts: Sequence[list[int]], targets: Sequence[Sequence[list[int]]]) -> Asked:
        """Each target has a row of its own."""
        numbers = [number for number, each in enumerate(targets) for _ in each]
        answers = [ids for each in targets for ids in each]
        return each_alone(self.batch([prompts[n] for n in numbers], answers), numbers)

    def asked_hidden(self, asked: Asked) -> Tensor:
        """As `hidden`, of `asked`."""
        return self.hidden(asked.batch)

    def start(self, prompts: Sequence[list[int]]) -> Batch:
        """Prompts as the source, and the decoder's start."""
        return self.batch(prompts, [[] for _ in prompts])

    def answers(
        self, start: Batch, max_new_tokens: int, stopped: Callable[[int, list[int]], bool] | None
    ) -> list[list[int]]:
        """Decoded from the decoder's start; the prompts are encoded once."""
        source = start.source
        assert source is not None
        encoded, cache = self._encoded(source), None

        def step(ids: Tensor) -> Tensor:
            nonlocal cache
            states = self.model.get_decoder()(
                input_ids=ids,
                encoder_hidden_states=encoded,
                encoder_attention_mask=source.attention_mask,
                past_key_values=cache,
                use_cache=True,
            )
            cache = states.past_key_values
            return self.head(states.last_hidden_state[:, -1])

        return greedy(step, start.input_ids, self.ends, max_new_tokens, stopped)

    def text(self, prompt: list[int], answer: list[int]) -> str:
        """The answer, which is a text of its own, without blanks around it."""
        return self._decoded(answer).strip()

    def _encoded(self, source: Batch) -> Tensor:
        states = self.model.get_encoder()(
            input_ids=source.input_ids, attention_mask=source.attention_mask
        )
        return states.last_hidden_state
