"""What a request is trained on: itself behind contexts, and texts that are to be left alone."""

# R rows, T tokens

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from datamodules.records import Request
from editors.additional_parameters.memory import Text
from editors.editor import Group
from editors.settings import at_least
from models.encoding import IGNORED
from models.language_model import Batch, LanguageModel


@dataclass(frozen=True)
class Rows:
    """The texts of several edits.

    Attributes:
        batch: their tokens; those to be left alone have no labels.
        owner: which of the edits each row belongs to, ``[R]``.
        prompt: bool ``[R, T]``, tokens that stand before an answer.
        inside: bool ``[R, T]``, tokens that the edit is for.
        outside: bool ``[R, T]``, tokens that it is not for.
    """

    batch: Batch
    owner: Tensor
    prompt: Tensor
    inside: Tensor
    outside: Tensor

    def of(self, numbers: Sequence[int]) -> Rows:
        """Those of some of the edits, which are counted anew."""
        place = torch.full((int(self.owner.max()) + 1,), -1, device=self.owner.device)
        place[list(numbers)] = torch.arange(len(numbers), device=place.device)
        keep = (place[self.owner] >= 0).nonzero()[:, 0]
        masks = (mask[keep] for mask in (self.prompt, self.inside, self.outside))
        return Rows(self.batch.rows(keep), place[self.owner[keep]], *masks)


def rows_of(
    language_model: LanguageModel,
    groups: Sequence[Group],
    contexts: Sequence[str],
    others: Sequence[Sequence[Text]],
    subject: bool = False,
) -> Rows:
    """Each edit's requests in all contexts, and texts that it is to leave alone.

    Args:
        language_model: reads them.
        groups: the requests of each edit.
        contexts: templates, see `Contexts`.
        others: for each edit the texts.
        subject: whether an edit is for its subjects' tokens alone, and no other ones of its texts.
    """
    texts: list[Text] = []
    owner, spans = [], []  # the subject's characters, (0, 0) of what is left alone
    for number, (group, left) in enumerate(zip(groups, others, strict=True)):
        told = [(request, context) for request in group for context in contexts]
        texts += [*((c.replace("{}", r.prompt), r.target) for r, c in told), *left]
        owner += [number] * (len(told) + len(left))
        spans += [*(_span(r, c) for r, c in told), *((0, 0) for _ in left)]
    batch = language_model.encode(*map(list, zip(*texts, strict=True)))
    device = batch.input_ids.device
    token = torch.arange(batch.input_ids.shape[1], device=device)
    prompt = batch.attention_mask.bool() & (token <= batch.asked[:, None])
    told = torch.tensor([end > 0 for _, end in spans], device=device)[:, None]
    inside = prompt & told
    if subject:
        ends = language_model.token_ranges(
            [text for text, _ in texts], [span if span[1] else (0, 1) for span in spans]
        )
        inside = inside & (ends[:, :1] <= token) & (token <= ends[:, 1:])
    labels = batch.labels.where(told, torch.full_like(batch.labels, IGNORED))
    outside = prompt & ~inside & (~told | subject)
    batch = Batch(batch.input_ids, batch.attention_mask, labels)
    return Rows(batch, torch.tensor(owner, device=device), prompt, inside, outside)


def _span(request: Request, context: str) -> tuple[int, int]:
    shift = len(context) - len("{}")
    start, end = request.span
    return start + shift, end + shift


def drawn(texts: Sequence[Text], count: int, key: str, subject: str = "") -> list[Text]:
    """``count`` of the texts, drawn by the key; none that mentions the subject, if there is one."""
    digest = hashlib.sha256(key.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    order = torch.randperm(len(texts), generator=generator).tolist()
    fitting = (texts[n] for n in order if not subject or subject not in texts[n][0])
    return list(islice(fitting, count))


@dataclass(frozen=True)
class Margins:
    """How far apart a side memory is to hold what it is for and what it is not for.

    Attributes:
        alpha: distance that others are not to exceed.
        beta: distance that requests are to exceed.
        gamma: by which requests are to exceed others.
    """

    alpha: float = 5.0
    beta: float = 20.0
    gamma: float = 10.0

    def __post_init__(self):
        at_least(0, alpha=self.alpha, beta=self.beta, gamma=self.gamma)

    def loss(self, inside: Tensor, outside: Tensor) -> Tensor:
        """Of the distances of requests ``[I]`` and of others ``[O]``, all pairs of them."""
        pairs = outside[:, None] - inside[None] + self.gamma
        return sum(map(hinge, (pairs, outside - self.alpha, self.beta - inside)), inside.sum() * 0)


def hinge(values: Tensor) -> Tensor:
    """Mean of the values above 0; 0 if there are none."""
    return values.clamp(min=0).sum() / (values > 0).sum().clamp(min=1)


def default_layer(language_model: LanguageModel) -> str:
    """Beside which a memory stands by default: ``mlp_out`` of the block three quarters up."""
    return language_model.layer("mlp_out", max(language_model.blocks * 3 // 4 - 1, 0))
