"""What several texts begin with is read once: its keys and values stand before each of them."""

# B rows, P tokens that are read already, T tokens behind them

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache, DynamicCache

from models.asked import Asked, targets_of
from models.encoding import Batch, pad_left, pad_right
from models.forms import DecoderOnly
from models.generation import Text
from models.language_model import LanguageModel
from models.passes import Around
from models.scores import TOKENS_PER_BATCH, Scores

LEAST = 64  # tokens that are worth a pass of their own
CACHED = 8  # tokens kept as keys and values cost so much less than tokens that are computed


class Behind(DecoderOnly):
    """Texts that begin with the same P tokens, which are read here, once.

    The answers are those of the whole texts, but for rounding. For a model with a sliding window
    the texts have to fit into the window.

    Args:
        form: of the model that reads.
        ids: ``[P]``, what all texts begin with.
    """

    def __init__(self, form: DecoderOnly, ids: Sequence[int]):
        super().__init__(form.model, form.tokenizer, form.ids)
        self.read = len(ids)
        states = self.model.base_model(
            input_ids=torch.tensor([ids], device=self.model.device), use_cache=True
        )
        self._past = [(x.keys, x.values) for x in states.past_key_values.layers]

    def batch(self, prompts: Sequence[list[int]], targets: Sequence[list[int]]) -> Batch:
        """What stands behind the tokens that are read."""
        return pad_right([ids[self.read :] for ids in prompts], targets, self.pad_id)

    def start(self, prompts: Sequence[list[int]]) -> Batch:
        """The same of prompts to be continued, padded on the left."""
        return pad_left([ids[self.read :] for ids in prompts], self.pad_id)

    def hidden(self, batch: Batch) -> Tensor:
        """Hidden states ``[B, T, d]`` behind the tokens that are read."""
        cache, before = self._before(len(batch.input_ids))
        places = self.read + torch.arange(batch.input_ids.shape[1], device=before.device)
        states = self.model.base_model(
            input_ids=batch.input_ids,
            attention_mask=torch.cat([before, batch.attention_mask], dim=1),
            position_ids=places.expand_as(batch.input_ids),
            past_key_values=cache,
            use_cache=True,
        )
        return states.last_hidden_state

    def asked(self, prompts: Sequence[list[int]], targets: Sequence[Sequence[list[int]]]) -> Asked:
        """What stands behind the tokens that are read, once for all targets of a prompt."""
        return super().asked([ids[self.read :] for ids in prompts], targets)

    def asked_hidden(self, asked: Asked) -> Tensor:
        """As `hidden`; targets of one prompt see what is read, but not each other."""
        if asked.branch is None:
            return self.hidden(asked.batch)
        cache, _ = self._before(len(asked.batch.input_ids))
        states = self.model.base_model(
            input_ids=asked.batch.input_ids,
            attention_mask=pad(asked.bias(self.model.dtype), (self.read, 0)),
            position_ids=self.read + asked.positions,
            past_key_values=cache,
            use_cache=True,
        )
        return states.last_hidden_state

    def _before(self, rows: int) -> tuple[Cache | None, Tensor]:
        cache = DynamicCache()  # a new one each time: the model appends to it
        for index, pair in enumerate(self._past):
            keys, values = (x.expand(rows, -1, -1, -1) for x in pair)
            cache.update(keys, values, index)
        return cache, torch.ones(rows, self.read, dtype=torch.long, device=self.model.device)


class Prefixed:
    """A language model to which texts are put that begin alike; it answers the same two questions.

    Args:
        language_model: who answers.
        prefixes: by text, what it begins with; those of texts that share none may be missing.
    """

    def __init__(self, language_model: LanguageModel, prefixes: Mapping[str, str]):
        self.language_model = language_model
        self.prefixes = prefixes

    def score(
        self,
        prompts: Sequence[str],
        targets: Sequence[str],
        *,
        behind: Sequence[int] | None = None,
        around: Around | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> Scores:
        """As `LanguageModel.score`; nothing may be hooked around it."""
        assert around is None
        own = targets_of(prompts, targets, behind)
        answers: list[tuple] = [()] * len(targets)
        for reader, rows, tokens in self._parts(prompts, tokens_per_batch):
            numbers = [number for row in rows for number in own[row]]
            place = [at for at, row in enumerate(rows) for _ in own[row]]
            asked = [prompts[row] for row in rows], [targets[number] for number in numbers]
            scores = reader.score(*asked, behind=place, tokens_per_batch=tokens)
            each = zip(scores.log_probs, scores.predicted, scores.targets, strict=True)
            for number, answer in zip(numbers, each, strict=True):
                answers[number] = answer
        return Scores(*([answer[part] for answer in answers] for part in range(3)))

    def generate(
        self,
        prompts: Sequence[str],
        *,
        around: Around | None = None,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        **options: Any,
    ) -> list[Text]:
        """As `LanguageModel.generate`; nothing may be hooked around it."""
        assert around is None
        texts = [Text("", False)] * len(prompts)
        for reader, rows, tokens in self._parts(prompts, tokens_per_batch):
            asked = [prompts[i] for i in rows]
            answers = reader.generate(asked, tokens_per_batch=tokens, **options)
            for i, text in zip(rows, answers, strict=True):
                texts[i] = text
        return texts

    @torch.no_grad()
    def _parts(
        self, prompts: Sequence[str], tokens: int
    ) -> Iterator[tuple[LanguageModel, list[int], int]]:
        """Who reads which prompts, and in micro-batches of how many tokens."""
        model, alone = self.language_model, []
        groups: dict[str, list[int]] = defaultdict(list)
        for row, prompt in enumerate(prompts):
            groups[self.prefixes.get(prompt, "")].append(row)
        for prefix, rows in groups.items():
            form, ids = model.form, []
            if prefix and len(rows) > 1 and isinstance(form, DecoderOnly):
                ids = model.shared_ids([prompts[i] for i in rows])
            if len(ids) < LEAST:
                alone += rows
                continue
            reader = copy.copy(model)
            reader.form = Behind(cast(DecoderOnly, form), ids)
            yield reader, rows, CACHED * tokens
        if alone:
            yield model, alone, tokens
