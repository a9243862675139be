"""A frozen Hugging Face language model, its tokenizer and the names of its layers.

Two questions are put to it, and to every edited model: ``score`` and ``generate``. Nothing here
knows of editing: whoever changes what the model says registers forward hooks on its modules, and
surrounds each micro-batch through ``around``.
"""

# B rows, T tokens, d hidden width, V vocabulary, n target tokens of all rows, t of one row

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, distributed, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from models.anatomy import Anatomy
from models.asked import likely, targets_of
from models.encoder_decoder import EncoderDecoder
from models.encoding import A_PASS, CACHED, IGNORED, Batch, TokenIds, micro_batches
from models.families import Family, family_of
from models.forms import DecoderOnly, Form
from models.generation import Text, cut
from models.loading import load_pretrained, number_format
from models.passes import Around, surrounded
from models.quantised import inner_tensors
from models.rendering import Rendering
from models.scores import TOKENS_PER_BATCH, Answer, Scores, split


class LanguageModel(Anatomy):
    """A language model, decoder-only or encoder-decoder, that is only asked, never written to.

    It takes over ``model``: no parameter requires a gradient and dropout stays off for good. How
    prompts are put to it is its ``rendering``; `rendered` gives the same model with another one.

    Raises:
        ValueError: the model's family is unknown, the tokenizer has no offsets, or it has more
            tokens than the model; for an encoder-decoder see also `EncoderDecoder`.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, name: str = ""):
        super().__init__()
        self.family: Family = family_of(model.config)
        rows = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
        if len(tokenizer) > rows:
            raise ValueError(f"the tokenizer has {len(tokenizer)} tokens, the model only {rows}")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self._put(Rendering())
        self.sharded = False  # whether processes hold a part of each block, and pass in step

    @classmethod
    def load(
        cls,
        path: str,
        dtype: str = "float32",
        attention: str = "eager",
        device: torch.device | str = "cpu",
    ) -> LanguageModel:
        """The model in a local folder, or under an id of the Hugging Face hub.

        Args:
            path: Folder or hub id.
            dtype: ``float32``, ``bfloat16``, ``float16``, ``float64``, or ``auto``: see
                `number_format`.
            attention: ``eager``, or ``sdpa`` where the family has it.
            device: Where the model is put.

        Raises:
            FileNotFoundError: neither a folder nor a hub id that can be reached, or no weights.
            ValueError: unknown dtype, attention or family.
        """
        number = number_format(dtype, device)
        model, tokenizer = load_pretrained(path, number, attention)
        return cls(model, tokenizer, name=path).to(device)

    def rendered(self, rendering: Rendering) -> LanguageModel:
        """The same model, not a copy, to which texts are put in another way.

        Raises:
            ValueError: the tokenizer lacks what the rendering takes.
        """
        if rendering == self.rendering:
            return self
        assert self.fingerprint  # taken once for both
        view = copy.copy(self)
        view._put(rendering)
        return view

    def _put(self, rendering: Rendering) -> None:
        self.rendering = rendering
        self._ids = TokenIds(self.tokenizer, rendering)
        form = DecoderOnly if self.family.encoder is None else EncoderDecoder
        self.form: Form = form(self.model, self.tokenizer, self._ids)

    def train(self, mode: bool = True) -> LanguageModel:
        """Stays in evaluation mode: a frozen model has no dropout, whoever trains beside it."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the parameters."""
        return self.model.dtype

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell models apart: names, formats, shapes, bytes of weights.

        The weights never change, so it is computed once; tied weights count once.
        """
        digest = hashlib.sha256()
        for whole, parameter in self.model.named_parameters():
            for name, weight in inner_tensors(whole, parameter.detach()):
                digest.update(f"{name} {weight.dtype} {list(weight.shape)}\n".encode())
                flat = weight.detach().cpu().contiguous().reshape(-1)
                digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    # texts

    @property
    def max_length(self) -> int:
        """Most tokens that the model, or each stack of it, takes.

        Where positions are relative it is the tokenizer that says so.
        """
        if self.family.relative:
            return int(self.tokenizer.model_max_length)
        return self.model.config.max_position_embeddings

    def encode(self, prompts: Sequence[str], targets: Sequence[str] | None) -> Batch:
        """Prompts continued by their targets, on the model's device.

        The prompt's ids (with BOS where the tokenizer has one) are followed by the target's ids; a
        blank is put between the two unless the target starts, or the prompt ends, with one. Behind
        the target stands the end that the `rendering` names. An encoder-decoder reads the prompts
        and begins with its start; see `EncoderDecoder`. ``targets=None``: the prompts alone,
        without labels.

        Raises:
            ValueError: not one target for each prompt, a prompt or target without a token, or more
                tokens than the model takes.
        """
        prompt_ids, target_ids, lengths = self._ids_of(prompts, targets)
        self._check_lengths(prompts, lengths)
        return self.form.batch(prompt_ids, target_ids).to(self.device)

    def lengths(
        self, prompts: Sequence[str], targets: Sequence[str] | None, more: int = 0
    ) -> list[int]:
        """How many tokens each prompt and target, and ``more`` generated ones, take up.

        It may be more than `max_length`. Of an encoder-decoder, those of the longer stack.

        Raises:
            ValueError: not one target for each prompt, or a prompt or target without a token.
        """
        return self._ids_of(prompts, targets, more)[2]

    def answer_lengths(self, prompts: Sequence[str], targets: Sequence[str]) -> list[int]:
        """How many tokens of each target `score` asks for.

        Raises:
            ValueError: not one target for each prompt, or a target without a token.
        """
        return [len(ids) for ids in self.form.target_ids(prompts, targets, ended=False)]

    def shared_ids(self, prompts: Sequence[str]) -> list[int]:
        """The tokens that all prompts begin with; each of them has one more at least."""
        places = list(zip(*self._ids.prompts(prompts), strict=False))[:-1]
        return [tokens[0] for tokens in takewhile(lambda tokens: len({*tokens}) == 1, places)]

    def token_positions(self, prompts: Sequence[str], spans: Sequence[tuple[int, int]]) -> Tensor:
        """Index ``[B]`` of the last token of each prompt that holds characters of its span.

        Counts as ``encode`` does (BOS included); ``spans`` are characters ``[start, end)``.

        Raises:
            ValueError: a span is empty, outside its prompt, or no token holds its characters.
        """
        return self.token_ranges(prompts, spans)[:, 1]

    def token_ranges(self, prompts: Sequence[str], spans: Sequence[tuple[int, int]]) -> Tensor:
        """First and last such token of each prompt ``[B, 2]``; see `token_positions`."""
        ranges = self._ids.covering(prompts, spans)
        return torch.tensor(ranges, dtype=torch.long, device=self.device).reshape(-1, 2)

    # answers

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states ``[B, T, d]`` before the output head; differentiable."""
        return self.form.hidden(batch)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits ``[..., V]`` of hidden states ``[..., d]``, in float32 at least."""
        return self.form.head(hidden)

    def target_logits(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits at the positions that predict a target token, and only there; differentiable.

        Returns:
            Logits ``[n, V]`` in float32, target ids ``[n]``, and each one's row ``[n]``, in order.
        """
        row, position = (batch.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
        logits = self.head(self.hidden(batch)[row, position])  # [n, V]
        return logits, batch.labels[row, position + 1], row

    @torch.no_grad()
    def score(
        self,
        prompts: Sequence[str],
        targets: Sequence[str],
        *,
        behind: Sequence[int] | None = None,
        around: Around | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> Scores:
        """How probable each target is after its prompt, token by token; an end is not asked for.

        Rows of like length go together in micro-batches of at most ``tokens_per_batch`` padded
        tokens; answers come in the order of the targets, and do not depend on who shares a batch.

        Args:
            prompts: what stands before the targets; each is read once for all of its targets.
            targets: what is asked for.
            behind: number of the prompt that each target follows; by default they go in pairs.
            around: see `Around`.
            tokens_per_batch: see above.

        Raises:
            ValueError: not a prompt for each target, a prompt or target without a token, or more
                tokens than the model takes.
        """
        own = targets_of(prompts, targets, behind)
        whole = [prompts[number] for number, each in enumerate(own) for _ in each]
        order = [target for each in own for target in each]
        _, ids, lengths = self._ids_of(whole, [targets[i] for i in order], ended=False)
        self._check_lengths(whole, lengths)
        prompt_ids, target_ids = self._ids.prompts(prompts), dict(zip(order, ids, strict=True))
        asked = [number for number, each in enumerate(own) if each]
        sizes = [
            self.form.asked_length(len(prompt_ids[n]), [len(target_ids[i]) for i in own[n]])
            for n in asked
        ]
        answers: dict[int, Answer] = {}
        batches = self._micro_batches(sizes, tokens_per_batch)
        for places in batches:
            numbers = [asked[place] for place in places]
            each = [[target_ids[i] for i in own[number]] for number in numbers]
            batch = self.form.asked([prompt_ids[n] for n in numbers], each).to(self.device)
            rows = [numbers[place] for place in batch.prompts]
            with surrounded(around, rows, batch.batch, batch.first, steps=False):
                hidden = self.form.asked_hidden(batch)
                parts = split(likely(self.head, batch, hidden), [len(x) for y in each for x in y])
            answers.update(zip((i for n in numbers for i in own[n]), parts, strict=True))
        if self.sharded:
            self._keep_step(len(batches))
        return Scores.of([answers[i] for i in range(len(targets))])

    def _micro_batches(self, lengths: Sequence[int], tokens: int) -> list[list[int]]:
        """Rows in groups of at most ``tokens`` padded tokens, of all stacks, for one pass each."""
        if self.device.type != "cpu":
            return micro_batches(lengths, tokens // self.form.stacks)
        return micro_batches(lengths, min(tokens, CACHED) // self.form.stacks, A_PASS)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 16,
        stop: Sequence[str] = (),
        around: Around | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> list[Text]:
        """The text that follows or answers each prompt, greedily, up to the end token.

        Args:
            prompts: what is to be continued or answered.
            max_new_tokens: of the text, at most.
            stop: strings, before the first of which a text ends.
            around: see `Around`.
            tokens_per_batch: padded tokens of a micro-batch, at most.

        Raises:
            ValueError: no new token asked for, an empty stop string, or prompt and new tokens
                exceed the model's maximum.
        """
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        if isinstance(stop, str) or not all(stop):
            raise ValueError(f"stop: expected a list of strings that are not empty, got {stop!r}")
        prompt_ids, _, lengths = self._ids_of(prompts, None, max_new_tokens)
        self._check_lengths(prompts, lengths)
        texts = [Text("", False)] * len(prompts)
        # as few groups as there can be: every step reads all weights, whatever the rows
        for rows in micro_batches(lengths, tokens_per_batch // self.form.stacks):
            inputs = [prompt_ids[i] for i in rows]
            start = self.form.start(inputs).to(self.device)

            def stopped(row: int, new: list[int], inputs: list[list[int]] = inputs) -> bool:
                text = self.form.text(inputs[row], new)
                return cut(text, stop) != text

            asked = torch.full((len(rows),), start.input_ids.shape[1] - 1)
            with surrounded(around, rows, start, asked, steps=True):
                answers = self.form.answers(start, max_new_tokens, stopped if stop else None)
            for row, prompt, answer in zip(rows, inputs, answers, strict=True):
                text = self.form.text(prompt, answer)
                kept = cut(text, stop)
                # what neither an end token nor a stop string ends is as long as it may be
                texts[row] = Text(kept, ended=kept == text and len(answer) < max_new_tokens)
        return texts

    def save(self, folder: str | Path) -> None:
        """Write a Hugging Face folder: weights as safetensors, configuration and tokenizer."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def _ids_of(
        self,
        prompts: Sequence[str],
        targets: Sequence[str] | None,
        more: int = 0,
        ended: bool = True,
    ) -> tuple[list[list[int]], list[list[int]], list[int]]:
        """Ids of prompts and targets, ``ended`` or not, and the tokens they take with ``more``."""
        prompt_ids = self._ids.prompts(prompts)
        target_ids = [[] for _ in prompts]
        if targets is not None:
            target_ids = self.form.target_ids(prompts, targets, ended)
        pairs = zip(prompt_ids, target_ids, strict=True)
        return prompt_ids, target_ids, [self.form.length(len(p), len(t) + more) for p, t in pairs]

    def _keep_step(self, passes: int) -> None:
        """Pass as often as the process that has most to ask: all of them gather each block."""
        most = torch.tensor(passes, device=self.device)
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        for _ in range(int(most) - passes):
            self.hidden(self.encode(["a"], None).to(self.device))

    def _check_lengths(self, prompts: Sequence[str], lengths: Sequence[int]) -> None:
        for prompt, length in zip(prompts, lengths, strict=True):
            if length > self.max_length:
                raise ValueError(
                    f"prompt {prompt[:40]!r}... and what follows it make {length} tokens; "
                    f"the model takes at most {self.max_length}"
                )
