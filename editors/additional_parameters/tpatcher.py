"""T-Patcher: a neuron in the last feed-forward part for each token that a model gets wrong.

As Huang et al., "Transformer-Patcher: One Mistake worth One Neuron", ICLR 2023,
https://arxiv.org/abs/2301.09785, and https://github.com/ZeroYuHuang/Transformer-Patcher. A patch
learns to answer to the query at which its token is predicted, and to no query of a memory.
Departures: requests, also those of one edit, are patched side by side, each as if it were alone;
the step size is not lowered; queries to validate on are taken from the memory's records; in gated
feed-forward parts a patch has a second key.
"""

# R requests, k patches of one at most, n of the requests, T tokens, d width, m queries

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from datamodules.pool import Pool
from datamodules.records import Request
from editors.additional_parameters.margins import PatchLosses
from editors.additional_parameters.memory import copied, memory, queries, texts_of
from editors.additional_parameters.mistakes import Mistakes
from editors.descent import Descent, means
from editors.editor import Editor, Group
from editors.settings import at_least, positive, shares
from edits.neurons import NeuronEdit, Neurons, Patched
from models.feed_forward import FeedForward, feed_forward
from models.hooks import full_precision
from models.language_model import LanguageModel

FALLS = 1e-3
"""The loss on the memory to validate on counts as falling if it falls by this share."""


@dataclass(frozen=True)
class Stopping:
    """When a patch is done: its text is right, and the memory's loss does not fall any more.

    Attributes:
        steps: at most.
        first: step before which nothing is checked.
        every: steps from one check to the next.
        patience: checks at which the loss may fail to fall before the patch is done.

    Raises:
        ValueError: an attribute is out of range.
    """

    steps: int = 2000
    first: int = 100
    every: int = 25
    patience: int = 1

    def __post_init__(self):
        at_least(1, steps=self.steps, every=self.every)
        at_least(0, first=self.first, patience=self.patience)


class TPatcher(Editor[NeuronEdit]):
    """Trains patches until the targets are right and the memory is quiet.

    Args:
        language_model: the model to edit.
        pool: whose texts make up the memory; only ``losses.memory_weight: 0`` goes without.
        losses: what patches are trained on.
        stopping: for how long.
        lr: of Adam.
        weight_decay: of Adam, in its L2 form.
        clip: longest gradient of an edit's patches.
        most: patches of a request, for the first of its wrong tokens.
        amplifier: at its start, of the random values that a patch begins with.
        memory: queries of the pool, at most.
        validation: share of the pool's records that patches are validated on.
        seed: of the values at the start, and of the queries.
        edits_per_batch: requests that are patched at a time.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        pool: Pool | None = None,
        losses: PatchLosses = PatchLosses(),  # noqa: B008
        stopping: Stopping = Stopping(),
        lr: float = 1e-2,
        weight_decay: float = 1e-2,
        clip: float | None = 5.0,
        most: int = 5,
        amplifier: float = 10.0,
        memory: int = 40_000,
        validation: float = 0.1,
        seed: int = 0,
        edits_per_batch: int = 32,
    ):
        positive(lr=lr, clip=clip, amplifier=amplifier)
        at_least(0, weight_decay=weight_decay)
        at_least(1, most=most, memory=memory, edits_per_batch=edits_per_batch)
        shares(validation=validation)
        self.language_model = language_model
        self.pool = pool
        self.losses = losses
        self.stopping = stopping
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip = clip
        self.most = most
        self.amplifier = amplifier
        self.memory = memory
        self.validation = validation
        at_least(0, seed=seed)
        self.seed = seed
        self.edits_per_batch = edits_per_batch
        self.place = feed_forward(language_model, language_model.blocks - 1)
        self._memories: tuple[Tensor, Tensor] | None = None

    def prepare(self) -> None:
        """Takes the memory's queries, of the unedited model, once.

        Raises:
            ValueError: there is no pool to take them of.
        """
        if self._memories is not None or not self.losses.memory_weight:
            return
        if self.pool is None:
            raise ValueError("tpatcher takes its memory of a pool: pool=records")
        held = max(1, round(self.validation * len(self.pool)))
        parts = self.pool.records[:-held] or self.pool.records, self.pool.records[-held:]
        most = self.memory, max(1, round(self.validation * self.memory))
        quiet, validated = (
            memory(self.language_model, self.place.given, texts_of(part), count, self.seed)
            for part, count in zip(parts, most, strict=True)
        )
        self._memories = quiet, validated

    def compute(self, groups: Sequence[Group], after: NeuronEdit | None) -> NeuronEdit:
        """Patches of all requests, which see those of ``after`` and its queries in the memory."""
        requests = [request for group in groups for request in group]
        model, size = self.language_model, self.edits_per_batch
        with (
            full_precision(model.device),
            nullcontext() if after is None else after.hooks(model),
        ):
            memories = self._grown(after)
            chunks = (requests[at : at + size] for at in range(0, len(requests), size))
            single = NeuronEdit.stack([self._patched(chunk, memories) for chunk in chunks])
        edit = NeuronEdit.stack([_joined(single, rows) for rows in _places(groups)])
        return edit if after is None else after.plus(edit)

    def start(self, requests: Sequence[Request]) -> Patches:
        """The patches of each request before they are trained, on the model as it now is."""
        mistakes = Mistakes(self.language_model, self.place, requests, self.most)
        starts = []
        for request, own in zip(requests, mistakes.queries, strict=True):
            key = own / own.square().sum(1, keepdim=True)
            text = f"{self.seed}\n{request.prompt}\n{request.target}".encode()
            seed = int.from_bytes(hashlib.sha256(text).digest()[:7], "big")
            drawn = torch.Generator().manual_seed(seed)
            width = self.language_model.shape(self.place.layer)[1]
            value = torch.randn(len(own), width, generator=drawn).to(own)
            amplifier = torch.full_like(value, self.amplifier)
            ups = [key.clone()] if self.place.gated else []
            starts.append([key, own.new_zeros(len(own)), value, amplifier, *ups])
        return Patches(self.place, mistakes, starts)

    @torch.enable_grad()
    def train(
        self, patches: Patches, memories: tuple[Tensor, Tensor] | None
    ) -> list[list[tuple[float, ...]]]:
        """Train the patches, in place, on the model as it now is.

        Args:
            patches: of requests that have one at least.
            memories: queries that they are not to answer to, and such to validate on.

        Returns:
            For each request, before every step: its loss, and that of target, activation, memory.
        """
        course = _Course(self, patches, memories)
        descent = Descent(
            patches.tensors,
            steps=self.stopping.steps,
            lr=self.lr,
            weight_decay=self.weight_decay,
            clip=self.clip,
        )
        with patches.mistakes.last_block():
            descent.run(course.losses, course.done)
        return course.history

    def _patched(
        self, requests: Sequence[Request], memories: tuple[Tensor, Tensor] | None
    ) -> NeuronEdit:
        """An edit for each of the requests, trained together."""
        patches = self.start(requests)
        wrong = [n for n, tensors in enumerate(patches.tensors) if len(tensors[0])]
        if wrong:
            self.train(patches.of(wrong), memories)
        counts = [len(tensors[0]) for tensors in patches.tensors]
        owners = tuple(
            (Patched(request.prompt, request.target, count),)
            for request, count in zip(requests, counts, strict=True)
        )
        with torch.no_grad():
            neurons = patches.neurons(range(len(requests)))
        place, print_ = self.place, self.language_model.fingerprint
        return NeuronEdit(neurons, place.given, place.layer, self.name, print_, owners)

    def _grown(self, after: NeuronEdit | None) -> tuple[Tensor, Tensor] | None:
        """Both memories, with the queries of the edit before behind them."""
        if self._memories is None or after is None or not after.requests:
            return self._memories
        texts = [(patched.prompt, patched.target) for patched in after.requests[0]]
        seen = queries(self.language_model, self.place.given, texts)
        more = [copied(rows, self.losses.copies) for rows in seen]
        quiet, validated = (torch.cat([rows, *more]) for rows in self._memories)
        return quiet, validated


@dataclass(frozen=True)
class Patches:
    """Requests, and the tensors of each one's patches.

    Attributes:
        place: where patches are.
        mistakes: that they are to mend.
        tensors: of each request its keys ``[k, d]``, biases ``[k]``, values ``[k, d]``, amplifiers
            ``[k, d]`` and, if gated, second keys ``[k, d]``.
    """

    place: FeedForward
    mistakes: Mistakes
    tensors: list[list[Tensor]]

    def of(self, numbers: Sequence[int]) -> Patches:
        """Those of some of the requests; the tensors are shared, and trained in place."""
        tensors = [self.tensors[n] for n in numbers]
        return replace(self, mistakes=self.mistakes.of(numbers), tensors=tensors)

    def neurons(self, numbers: Sequence[int]) -> Neurons:
        """An edit of each of some requests; differentiable where gradients are on."""
        each = (self.tensors[n] for n in numbers)
        keys, biases, values, amplifiers, *ups = (
            pad_sequence(list(parts), batch_first=True) for parts in zip(*each, strict=True)
        )
        return Neurons(keys, biases, values * amplifiers, self.place.activation, *ups)


class _Course:
    """What the patches of one training are worth, step by step."""

    def __init__(self, editor: TPatcher, patches: Patches, memories: tuple[Tensor, Tensor] | None):
        self.settings, self.stopping = editor.losses, editor.stopping
        self.name, self.patches, self.memories = editor.name, patches, memories
        for tensor in (tensor for each in patches.tensors for tensor in each):
            tensor.requires_grad_()
        self.queries = pad_sequence(patches.mistakes.queries, batch_first=True)  # [R, k, d]
        counts = torch.tensor([len(own) for own in patches.mistakes.queries])
        real = torch.arange(self.queries.shape[1]) < counts[:, None]
        self.real = real.to(self.queries.device)
        self.history: list[list[tuple[float, ...]]] = [[] for _ in patches.tensors]
        self.step = 0
        self.best = torch.full((len(counts),), torch.inf)
        self.failed = torch.zeros(len(counts), dtype=torch.long)

    def losses(self, active: Sequence[int]) -> Tensor:
        """Of the requests with these numbers."""
        model, place = self.patches.mistakes.language_model, self.patches.place
        neurons = self.patches.neurons(active)
        most = neurons.count  # of these; one that has stopped may have had more
        queries, real = self.queries[active, :most], self.real[active, :most]
        edit = NeuronEdit(neurons, place.given, place.layer, self.name, model.fingerprint)
        with edit.hooks(model, range(len(active)) if len(active) > 1 else None):
            logits, targets, row = self.patches.mistakes.logits(active)
        target = means(self.settings.nll(logits, targets), row, len(active))
        wrong = (logits.argmax(1) != targets).to(target.dtype)
        self.right = means(wrong, row, len(active)) == 0
        own = (queries * neurons.keys).sum(-1) + neurons.biases
        activation = self.settings.activation(own, real)
        quiet = own.new_zeros(len(active))
        if self.memories is not None and self.settings.memory_weight:
            quiet = self._memory(own, real, neurons, 0)
        self.check = (own.detach(), real, neurons)
        total = target + self.settings.activation_weight * activation
        total = total + self.settings.memory_weight * quiet
        parts = torch.stack([total, target, activation, quiet], 1).tolist()
        for number, values in zip(active, parts, strict=True):
            self.history[number].append(tuple(values))
        return total

    @torch.no_grad()
    def done(self, active: Sequence[int], values: Tensor) -> Tensor:
        """Which of them stop; their memory's loss is looked at now and then."""
        step, self.step = self.step, self.step + 1
        late = step - self.stopping.first
        if late < 0 or late % self.stopping.every:
            return torch.zeros(len(active), dtype=torch.bool, device=values.device)
        quiet = self.validated()
        best = self.best[active]
        falls = quiet < best * (1 - FALLS)
        self.best[active] = torch.where(falls, quiet, best)
        self.failed[active] = torch.where(falls, 0, self.failed[active] + 1)
        stop = self.right.cpu() & (self.failed[active] > self.stopping.patience)
        return stop.to(values.device)

    @torch.no_grad()
    def validated(self) -> Tensor:
        """Loss of the memory to validate on, of those whose losses were taken last."""
        if self.memories is None:
            return torch.zeros(len(self.right))
        return self._memory(*self.check, 1).cpu().to(self.best.dtype)

    def _memory(self, own: Tensor, real: Tensor, neurons: Neurons, which: int) -> Tensor:
        assert self.memories is not None
        rows = self.memories[which].to(own)
        return self.settings.memory(own, real, neurons.keys, neurons.biases, rows)


def _places(groups: Sequence[Group]) -> Iterator[range]:
    """Of each group, where its requests are among those of all."""
    at = 0
    for group in groups:
        yield range(at, at + len(group))
        at += len(group)


def _joined(edit: NeuronEdit, rows: range) -> NeuronEdit:
    """One edit with the neurons of those at ``rows``."""
    first, *others = (edit.select(n) for n in rows)
    for other in others:
        first = first.plus(other)
    return first
