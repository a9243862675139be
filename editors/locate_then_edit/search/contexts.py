"""Short texts that a prompt is put behind, so that an edit does not hang on one wording.

ROME samples them from the model itself, unseeded; here they come from a seed, or from a fixed list.
Each is a template that ends in ``{}``, the bare ``"{}"`` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from editors.settings import at_least
from models.hooks import full_precision
from models.language_model import Batch, LanguageModel

LENGTHS = ((5, 10), (10, 10))
"""The authors' sampled contexts: ten of 5 tokens and ten of 10, start token included."""

FIXED = (
    "{}",
    "The. {}",
    "It was late. {}",
    "We went home. {}",
    "The report is out. {}",
    "He did not know. {}",
    "In the end. {}",
    "There are many ways. {}",
    "She said so. {}",
    "You can see it. {}",
    "The first time. {}",
    "I have been thinking about this for a while. {}",
    "The meeting was moved to the following week. {}",
    "There was a long line in front of the shop. {}",
    "A new version of the book came out last year. {}",
    "They have lived in the same house for many years. {}",
    "The weather was good for most of the summer. {}",
    "It is one of the most popular games this season. {}",
    "The number of people who work there has grown. {}",
    "This is what we know about the story so far. {}",
    "Because the train was late, we took the bus. {}",
)
"""The bare prompt, ten short and ten longer openings: the same for every model."""


@dataclass(frozen=True)
class Contexts:
    """Which contexts a prompt is put into.

    Attributes:
        texts: ``sampled`` (texts of the model itself, as the authors do), ``fixed`` (the same list
            for every model), or a list of templates.
        lengths: how long and how many are sampled, as (tokens with the start token, texts) pairs.
            The bare prompt is one context more; the fewer the others, the more it counts.
        seed: of the sampled contexts.

    Raises:
        ValueError: the first of the templates is not bare, or one does not hold one ``{}``, at its
            end.
    """

    texts: str | Sequence[str] = "sampled"
    lengths: Sequence[tuple[int, int]] = LENGTHS
    seed: int = 0

    def __post_init__(self):
        at_least(0, seed=self.seed)
        if self.texts in ("sampled", "fixed"):
            return
        if isinstance(self.texts, str) or not self.texts or self.texts[0] != "{}":
            raise ValueError(
                "contexts: expected 'sampled', 'fixed', or a list that starts with '{}'; "
                f"got {self.texts!r}"
            )
        for context in self.texts:
            if not context.endswith("{}") or context.count("{}") > 1:
                raise ValueError(f"context {context!r}: expected one '{{}}', at its end")

    def of(self, language_model: LanguageModel) -> tuple[str, ...]:
        """The templates for this model."""
        if self.texts == "sampled":
            return sample_contexts(language_model, self.lengths, self.seed)
        return FIXED if self.texts == "fixed" else tuple(self.texts)


def sample_contexts(
    language_model: LanguageModel,
    lengths: Sequence[tuple[int, int]] = LENGTHS,
    seed: int = 0,
) -> tuple[str, ...]:
    """The bare context and texts that the model itself writes after its start token.

    As in ROME's code: each next token is drawn from the five likeliest; a full stop and the prompt
    follow. The same model, seed and lengths give the same contexts. Texts that hold nothing but
    blanks and stops are left out.

    Args:
        language_model: writes the texts.
        lengths: (tokens with the start token, number of texts) of each group.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    contexts = ["{}"]
    for tokens, count in lengths:
        with full_precision(language_model.device):
            ids = _sampled(language_model, tokens, count, generator)
        for text in language_model.tokenizer.batch_decode(ids, skip_special_tokens=True):
            text = " ".join(text.replace("{", " ").replace("}", " ").split()).rstrip(" .")
            if text:
                contexts.append(text + ". {}")
    return tuple(contexts)


@torch.no_grad()
def _sampled(
    language_model: LanguageModel, tokens: int, count: int, generator: torch.Generator
) -> Tensor:
    """Token ids ``[count, tokens]``, the start token included."""
    tokenizer = language_model.tokenizer
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids = torch.full((count, 1), cast(int, start), device=language_model.device)
    while ids.shape[1] < tokens:
        batch = Batch(ids, torch.ones_like(ids), torch.full_like(ids, -100))
        logits = language_model.head(language_model.hidden(batch)[:, -1])
        likeliest = logits.topk(min(5, logits.shape[-1]))
        shares = likeliest.values.softmax(-1).float().cpu()
        place = torch.multinomial(shares, 1, generator=generator).to(ids.device)
        ids = torch.cat([ids, likeliest.indices.gather(1, place)], dim=1)
    return ids
