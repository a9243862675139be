"""The texts with which a value is optimised: prompts in contexts, and their targets."""

# B edits, m contexts, N = B * (m + 1) rows, T tokens, S tokens from the subject on

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from datamodules.records import Request
from editors.locate_then_edit.keys import placed
from models.encoding import IGNORED, Batch
from models.language_model import LanguageModel
from models.sites import watched
from models.suffixes import Suffixes, suffixes


@dataclass(frozen=True)
class Rows:
    """The texts of B edits: for each its m contexts with the target, then the row for the KL.

    Attributes:
        suffixes: the N texts from the subject's last token on.
        targets: ``[N, S]``, the target token that is to follow each token, -100: none.
        read: ``[N, S]``, at which tokens the model's word counts: where it is to say a target
            token, and at the first of the KL rows. None: all are to be computed.
        per_edit: ``m + 1``.
    """

    suffixes: Suffixes
    targets: Tensor
    read: Tensor | None
    per_edit: int

    def of(self, edits: Tensor) -> Rows:
        """The rows of some of the edits."""
        index = (edits[:, None] * self.per_edit + torch.arange(self.per_edit).to(edits)).flatten()
        read = None if self.read is None else self.read[index]
        return Rows(self.suffixes.of(index), self.targets[index], read, self.per_edit)


def started(
    language_model: LanguageModel,
    requests: Sequence[Request],
    contexts: Sequence[str],
    sites: Sequence[str],
    places: Sequence[str] | None = None,
) -> tuple[Rows, dict[str, tuple[Tensor, Tensor]]]:
    """The edits' rows, and what each site sees and says at the subject's last token.

    That is its input ``[B, m, d_in]`` and output ``[B, m, d_out]`` in the m contexts.

    ``places`` are the modules that are to be shifted, if they are not the sites; see `place_of`.
    """
    first, per_edit = _first_block(language_model, places or sites), len(contexts) + 1
    last = language_model.blocks - 1
    narrow = all(language_model.family.block_of(site) != last for site in sites)
    batch, at = _texts(language_model, requests, contexts)
    mask = pad(batch.attention_mask[:, 1:], (0, 1))  # the last token of a text predicts nothing
    following = pad(batch.labels[:, 1:], (0, 1), value=IGNORED)
    texts = Batch(batch.input_ids, mask, following)
    told = torch.arange(len(at), device=at.device).view(-1, per_edit)[:, :-1].flatten()
    with watched(language_model, sites, told, at[told], len(at)) as seen:
        ends, targets = suffixes(language_model, texts, at, first, narrow)
    read = targets != IGNORED
    read[per_edit - 1 :: per_edit, 0] = True
    rows = Rows(ends, targets, read if narrow else None, per_edit)
    in_contexts = (-1, len(contexts))
    return rows, {
        site: tuple(x.unflatten(0, in_contexts) for x in pair) for site, pair in seen.items()
    }


def _first_block(language_model: LanguageModel, sites: Sequence[str]) -> int:
    """The lowest block that has to be run to see the sites shifted.

    That is the first that holds one, or the next, if the site is what a whole block says.
    """
    family = language_model.family
    blocks = {site: family.block_of(site) for site in sites}
    if outside := [site for site, at in blocks.items() if at is None]:
        raise ValueError(f"sites {outside} are in no block of the language model")
    return min(at + (site == family.block(at)) for site, at in blocks.items())


def _texts(
    language_model: LanguageModel, requests: Sequence[Request], contexts: Sequence[str]
) -> tuple[Batch, Tensor]:
    """The N texts and the place of the subject's last token in each, ``[N]``.

    Context rows hold prompt and target, the KL row the prompt "{subject} is a" alone.
    """
    prompts, spans = placed(requests, contexts)
    kept = [f"{request.subject} is a" for request in requests]
    told = language_model.encode(prompts, [r.target for r in requests for _ in contexts])
    asked = language_model.encode(kept, None)
    at = language_model.token_positions(prompts, spans)
    at_kept = language_model.token_positions(kept, [(0, len(r.subject)) for r in requests])

    def woven(one: Tensor, other: Tensor, fill: int) -> Tensor:
        width = max(one.shape[1], other.shape[1])
        one, other = (pad(x, (0, width - x.shape[1]), value=fill) for x in (one, other))
        one = one.unflatten(0, (len(requests), len(contexts)))
        return torch.cat([one, other[:, None]], dim=1).flatten(0, 1)

    batch = Batch(
        woven(told.input_ids, asked.input_ids, 0),  # any id would do: padding is masked
        woven(told.attention_mask, asked.attention_mask, 0),
        woven(told.labels, asked.labels, IGNORED),
    )
    return batch, woven(at[:, None], at_kept[:, None], 0).flatten()
