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
from models.encoding import A_PASS, CACHED, IGNORED, Batch, micro_batches
from models.language_model import LanguageModel
from models.sites import watched
from models.suffixes import Suffixes, suffixes


@dataclass(frozen=True)
class Rows:
    """The texts of B edits: for each its m contexts with the target, then the one for the KL.

    Attributes:
        suffixes: the texts from the subject's last token on, those of an edit in one row.
        targets: ``[B, S]``, the target token that is to follow each token, -100: none.
        read: ``[B, S]``, the tokens whose predictions count: those before a target token, and
            the first of the text for the KL. None: all are to be computed.
        starts: ``[B, m + 1]``, the first token of each text.
    """

    suffixes: Suffixes
    targets: Tensor
    read: Tensor | None
    starts: Tensor

    def of(self, edits: Tensor) -> Rows:
        """The rows of some of the edits."""
        read = None if self.read is None else self.read[edits]
        return Rows(self.suffixes.of(edits), self.targets[edits], read, self.starts[edits])


def first_pass(
    language_model: LanguageModel,
    requests: Sequence[Request],
    contexts: Sequence[str],
    sites: Sequence[str],
    places: Sequence[str] | None = None,
) -> tuple[Rows, dict[str, tuple[Tensor, Tensor]]]:
    """The edits' rows, and each site's input and output at the subject's last token.

    The two are ``[B, m, d_in]`` and ``[B, m, d_out]``, in the m contexts.

    ``places`` are the modules that are to be shifted, if they are not the sites; see `place_of`.
    """
    first, per_edit = _first_block(language_model, places or sites), len(contexts) + 1
    last = language_model.blocks - 1
    narrow = all(language_model.family.block_of(site) != last for site in sites)
    batch, at = _texts(language_model, requests, contexts)
    mask = pad(batch.attention_mask[:, 1:], (0, 1))  # the last token of a text predicts nothing
    mask[per_edit - 1 :: per_edit] *= _up_to(at[per_edit - 1 :: per_edit], mask.shape[1])
    following = pad(batch.labels[:, 1:], (0, 1), value=IGNORED)
    texts = Batch(batch.input_ids, mask, following)
    parts, labels, seen = [], [], []
    groups = micro_batches(texts.lengths.tolist(), CACHED, A_PASS)
    for group in groups:  # texts of like length
        rows, own = texts.rows(group).trimmed(), at[group]
        each = torch.arange(len(group), device=at.device)
        with watched(language_model, sites, each, own, len(group)) as pairs:
            ends, targets = suffixes(language_model, rows, own, first, narrow)
        parts.append(ends)
        labels.append(targets)
        seen.append(pairs)
    order = torch.tensor([row for group in groups for row in group]).argsort().to(at.device)
    ends, source = Suffixes.joined(parts).of(order).packed(per_edit)
    width = max(x.shape[1] for x in labels)
    targets = torch.cat([pad(x, (0, width - x.shape[1]), value=IGNORED) for x in labels])[order]
    targets = torch.where(source >= 0, targets.flatten()[source.clamp(min=0)], IGNORED)
    counts = torch.arange(per_edit, device=at.device)[:, None, None] > ends.text  # [m + 1, B, S]
    starts = (counts & (ends.text >= 0)).sum(2).T
    read = targets != IGNORED
    read.scatter_(1, starts[:, -1:], True)
    rows = Rows(ends, targets, read if narrow else None, starts)

    def in_contexts(site: str, side: int) -> Tensor:
        values = torch.cat([pairs[site][side] for pairs in seen])[order]
        return values.unflatten(0, (-1, per_edit))[:, :-1]

    return rows, {site: (in_contexts(site, 0), in_contexts(site, 1)) for site in sites}


def _up_to(at: Tensor, width: int) -> Tensor:
    """A mask ``[n, width]`` of the tokens up to place ``at``."""
    return (torch.arange(width, device=at.device) <= at[:, None]).long()


def _first_block(language_model: LanguageModel, sites: Sequence[str]) -> int:
    """The lowest block that has to be run when the sites are shifted.

    That is the first that holds one, or the next, if the site is a whole block.
    """
    family = language_model.family
    blocks = {site: at for site in sites if (at := family.block_of(site)) is not None}
    if outside := [site for site in sites if site not in blocks]:
        raise ValueError(f"sites {outside} are in no block of the language model")
    return min(at + (site == family.block(at)) for site, at in blocks.items())


def _texts(
    language_model: LanguageModel, requests: Sequence[Request], contexts: Sequence[str]
) -> tuple[Batch, Tensor]:
    """The N texts and the place of the subject's last token in each, ``[N]``.

    Context rows hold prompt and target, the KL row the prompt "{subject} is a" alone.
    """
    prompts, spans = placed(requests, contexts)
    essences = [f"{request.subject} is a" for request in requests]
    context = language_model.encode(prompts, [r.target for r in requests for _ in contexts])
    essence = language_model.encode(essences, None)
    context_at = language_model.token_positions(prompts, spans)
    essence_at = language_model.token_positions(essences, [(0, len(r.subject)) for r in requests])

    def interleaved(context: Tensor, essence: Tensor, fill: int) -> Tensor:
        width = max(context.shape[1], essence.shape[1])
        context, essence = (pad(x, (0, width - x.shape[1]), value=fill) for x in (context, essence))
        context = context.unflatten(0, (len(requests), len(contexts)))
        return torch.cat([context, essence[:, None]], dim=1).flatten(0, 1)

    batch = Batch(
        interleaved(context.input_ids, essence.input_ids, 0),  # any id would do: it is masked
        interleaved(context.attention_mask, essence.attention_mask, 0),
        interleaved(context.labels, essence.labels, IGNORED),
    )
    return batch, interleaved(context_at[:, None], essence_at[:, None], 0).flatten()
