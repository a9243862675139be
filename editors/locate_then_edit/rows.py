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
from editors.locate_then_edit.sites import activations
from editors.locate_then_edit.suffixes import Suffixes, suffixes
from models.encoding import IGNORED, Batch
from models.language_model import LanguageModel


@dataclass(frozen=True)
class Rows:
    """The texts of B edits: for each its m contexts with the target, then the row for the KL.

    Attributes:
        suffixes: the N texts from the subject's last token on.
        targets: ``[N, S]``, the target token that is to follow each token, -100: none.
        per_edit: ``m + 1``.
    """

    suffixes: Suffixes
    targets: Tensor
    per_edit: int

    def of(self, edits: Tensor) -> Rows:
        """The rows of some of the edits."""
        index = (edits[:, None] * self.per_edit + torch.arange(self.per_edit).to(edits)).flatten()
        return Rows(self.suffixes.of(index), self.targets[index], self.per_edit)


def started(
    language_model: LanguageModel,
    requests: Sequence[Request],
    contexts: Sequence[str],
    sites: Sequence[str],
    places: Sequence[str] | None = None,
) -> tuple[Rows, dict[str, Tensor]]:
    """The edits' rows, and each site's output ``[B, d]`` at the subject of the bare prompt.

    ``places`` are the modules that are to be shifted, if they are not the sites; see `place_of`.
    """
    first, per_edit = _first_block(language_model, places or sites), len(contexts) + 1
    batch, at = _texts(language_model, requests, contexts)
    bare = [x[::per_edit] for x in (batch.input_ids, batch.attention_mask, batch.labels)]
    edits = torch.arange(len(requests), device=at.device)
    seen = activations(language_model, Batch(*bare), sites, edits, at[::per_edit])
    mask = pad(batch.attention_mask[:, 1:], (0, 1))  # the last token of a text predicts nothing
    following = pad(batch.labels[:, 1:], (0, 1), value=IGNORED)
    ends, targets = suffixes(language_model, Batch(batch.input_ids, mask, following), at, first)
    return Rows(ends, targets, per_edit), {site: seen[site][1] for site in sites}


def _first_block(language_model: LanguageModel, sites: Sequence[str]) -> int:
    """The lowest block that has to be run to see the sites shifted.

    That is the first that holds one, or the next, if the site is what a whole block says.
    """
    for index in range(language_model.blocks):
        name = language_model.block(index)
        if any(site.startswith(f"{name}.") for site in sites):
            return index
        if name in sites:
            return index + 1
    raise ValueError(f"sites {list(sites)} are in no block of the language model")


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
