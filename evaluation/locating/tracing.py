"""Causal tracing: where in a model a fact is held, by restoring states of a run without it.

Meng et al., "Locating and Editing Factual Associations in GPT", NeurIPS 2022,
https://arxiv.org/abs/2202.05262, section 2. Noise on the embeddings of the subject's tokens keeps
the model from the answer; then one state at a time (one block at one token) is set to what it was
without noise. By how much that raises the answer's probability is the state's indirect effect.

Restoring works on rows: each is a fact, a draw of noise and a place, and begins at the lowest block
that has something to restore, on what the blocks below said in the run with noise.

Departures from the authors' code: the answer is the whole true one, token by token, not the first
token of what the model says; the spread of embeddings is that of the subjects' tokens as they
stand in the prompts; effects are averaged over the tokens of a role within a fact first.
"""

# F facts, R rows, T tokens, d hidden width

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from datamodules.records import Request
from evaluation.locating.traces import Trace
from models.encoding import micro_batches
from models.hooks import full_precision, hidden_of, hooked, recorded, unflattened
from models.language_model import Batch, LanguageModel
from models.suffixes import mapped, resumed
from watching import Watch

KINDS = ("hidden", "mlp", "attention")
"""What is restored: what a block says, or what its feed-forward or attention part adds to it."""


@dataclass(frozen=True)
class Tracing:
    """How facts are traced.

    Attributes:
        kinds: some of `KINDS`.
        window: blocks whose feed-forward or attention outputs are restored together, around the one
            that is named; None: a fifth of all, the authors' 10 of 48.
        noise: standard deviation of the noise, in standard deviations of the embeddings.
        samples: draws of noise for each fact.
        seed: of the noise.
        rows_per_batch: bounds the memory taken; results do not depend on it.

    Raises:
        ValueError: an argument is not one of the above.
    """

    kinds: Sequence[str] = KINDS
    window: int | None = None
    noise: float = 3.0
    samples: int = 10
    seed: int = 0
    rows_per_batch: int = 512

    def __post_init__(self):
        kinds = self.kinds
        if isinstance(kinds, str) or not kinds or set(kinds) - set(KINDS):
            raise ValueError(f"kinds: expected some of {', '.join(KINDS)}, got {kinds}")
        if self.noise <= 0:
            raise ValueError(f"noise: expected more than 0, got {self.noise}")
        for name in ("samples", "rows_per_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")

    def width(self, blocks: int) -> int:
        """The window's width in a model with that many blocks.

        Raises:
            ValueError: it is none, or more than there are blocks.
        """
        if self.window is None:
            return max(1, round(blocks * 10 / 48))
        if not 1 <= self.window <= blocks:
            raise ValueError(
                f"window: expected 1 to {blocks}, the model's blocks, got {self.window}"
            )
        return self.window

    def restored(self, kind: str, block: int, blocks: int) -> range:
        """The blocks that are restored for the sake of one."""
        width = 1 if kind == "hidden" else self.width(blocks)
        return range(max(0, block - width // 2), min(blocks, block + (width + 1) // 2))


@torch.no_grad()
def trace(
    language_model: LanguageModel, requests: Sequence[Request], tracing: Tracing | None = None
) -> list[Trace]:
    """The map of each fact: a request's prompt and its ``target_true``.

    Raises:
        ValueError: there is no request, one has no true answer, or the window is too wide.
    """
    tracing = tracing or Tracing()
    tracing.width(language_model.blocks)
    if not requests:
        raise ValueError("there are no facts to trace")
    for request in requests:
        if request.target_true is None:
            raise ValueError(f"{request.prompt!r} has no true answer to trace")
    prompts = [request.prompt for request in requests]
    spans = [request.span for request in requests]
    subjects = language_model.token_ranges(prompts, spans).tolist()
    with full_precision(language_model.device):
        noise = _noise(language_model, prompts, subjects, tracing)
        lengths = language_model.lengths(prompts, None)
        rows = sum(n - first for n, (first, _) in zip(lengths, subjects, strict=True))
        runs = rows * tracing.samples * language_model.blocks * len(tracing.kinds)
        traces: dict[int, Trace] = {}
        with Watch("causal tracing", runs, "runs") as watch:
            # facts of like length go together, as many as one batch of noisy runs holds
            size = max(1, tracing.rows_per_batch // tracing.samples)
            for indices in micro_batches(lengths, size * max(lengths)):
                group = _Group(
                    language_model,
                    [requests[i] for i in indices],
                    [subjects[i] for i in indices],
                    [noise[i] for i in indices],
                    tracing,
                )
                traces.update(zip(indices, group.traces(watch.advance), strict=True))
    return [traces[i] for i in range(len(requests))]


def _noise(
    language_model: LanguageModel,
    prompts: Sequence[str],
    subjects: Sequence[tuple[int, int]],
    tracing: Tracing,
) -> list[Tensor]:
    """What is added to the embeddings of each subject's n tokens, ``[samples, n, d]``."""
    ids = language_model.encode(prompts, None).input_ids
    subject_ids = [row[a : b + 1] for row, (a, b) in zip(ids, subjects, strict=True)]
    embedded = language_model.model.get_input_embeddings()(torch.cat(subject_ids))  # [sum n, d]
    scale = tracing.noise * float(embedded.double().std())
    generator = torch.Generator().manual_seed(tracing.seed)
    return [
        torch.randn(tracing.samples, len(subject), embedded.shape[1], generator=generator) * scale
        for subject in subject_ids
    ]


class _Group:
    """Some facts, their runs without noise and those with it."""

    def __init__(
        self,
        language_model: LanguageModel,
        requests: Sequence[Request],
        subjects: Sequence[tuple[int, int]],
        noise: Sequence[Tensor],
        tracing: Tracing,
    ):
        self.language_model, self.tracing = language_model, tracing
        self.requests, self.subjects = requests, subjects
        prompts = [request.prompt for request in requests]
        self.lengths = language_model.lengths(prompts, None)
        self.batch = language_model.encode(
            prompts, [cast(str, request.target_true) for request in requests]
        )
        (facts, width), device = self.batch.input_ids.shape, language_model.device
        layers = {
            kind: [_layer(language_model, kind, block) for block in range(language_model.blocks)]
            for kind in dict.fromkeys([*tracing.kinds, "hidden"])
        }
        self.layers = layers
        layers_traced = [name for kind in tracing.kinds for name in layers[kind]]
        with recorded(language_model.modules_of(layers_traced)) as clean:
            self.clean = _chances(language_model, self.batch)  # [F]
        self.states = {n: unflattened(hidden_of(x), facts) for n, x in clean.items()}
        shift = torch.zeros(len(requests), tracing.samples, width, noise[0].shape[-1])
        for rows, (first, last), draws in zip(shift, subjects, noise, strict=True):
            rows[:, first : last + 1] = draws
        self.shift = shift.flatten(0, 1).to(device)  # [F * samples, T, d]
        self.facts = torch.arange(len(requests), device=device)
        self.facts = self.facts.repeat_interleave(tracing.samples)  # [F * samples]
        with recorded(language_model.modules_of(layers["hidden"])) as self.below:
            self.corrupted = self._under_noise(torch.arange(len(self.facts), device=device))

    def traces(self, done: Callable[[int], object]) -> list[Trace]:
        """One of each fact; ``done`` is told how many runs have been made."""
        samples, blocks = self.tracing.samples, self.language_model.blocks
        places = [
            (fact * samples + sample, at)
            for fact, ((first, _), end) in enumerate(zip(self.subjects, self.lengths, strict=True))
            for at in range(first, end)
            for sample in range(samples)
        ]
        runs, at = torch.tensor(places, device=self.facts.device).unbind(1)
        noisy = self.corrupted.view(-1, samples).mean(1)  # [F]
        shape = (len(self.requests), blocks, max(self.lengths))
        maps = {kind: noisy[:, None, None].repeat(1, *shape[1:]) for kind in self.tracing.kinds}
        for kind, chances in maps.items():
            for block in range(blocks):
                gained = torch.zeros(shape[0], shape[2], dtype=noisy.dtype, device=noisy.device)
                for part in torch.arange(len(runs)).split(self.tracing.rows_per_batch):
                    part = part.to(runs.device)
                    chance = self._restored(kind, block, runs[part], at[part])
                    gain = (chance - noisy[self.facts[runs[part]]]) / samples
                    where = (self.facts[runs[part]], at[part])
                    gained.index_put_(where, gain, accumulate=True)
                    done(len(part))
                chances[:, block] += gained
        return [self._trace(fact, noisy, maps) for fact in range(len(self.requests))]

    def _trace(self, fact: int, noisy: Tensor, maps: dict[str, Tensor]) -> Trace:
        length = self.lengths[fact]
        tokenizer, (first, last) = self.language_model.tokenizer, self.subjects[fact]
        ids = self.batch.input_ids[fact, :length]
        return Trace(
            self.requests[fact],
            [cast(str, tokenizer.decode([token])) for token in ids.tolist()],
            (first, last),
            float(self.clean[fact]),
            float(noisy[fact]),
            {kind: chances[fact, :, :length].cpu() for kind, chances in maps.items()},
        )

    def _restored(self, kind: str, block: int, runs: Tensor, at: Tensor) -> Tensor:
        """The answers' probability ``[R]`` in runs with noise, each with a state restored."""
        model, facts = self.language_model, self.facts[runs]
        restored = self.tracing.restored(kind, block, model.blocks)
        states = {name: self.states[name] for name in (self.layers[kind][b] for b in restored)}
        begin, below = restored.start, None
        put = {name: partial(_put, state, facts, at) for name, state in states.items()}
        if kind == "hidden":  # what the block says is what the next one is given
            begin = block + 1
        if begin:
            name = self.layers["hidden"][begin - 1]
            below = mapped(self.below[name], lambda hidden: hidden[runs])
            if kind == "hidden":
                below = mapped(below, put.pop(name))

        def look(name: str, given: Tensor, output: Tensor) -> Tensor:
            return put[name](unflattened(output, len(runs))).view_as(output)

        with hooked(model.modules_of(put), look), resumed(model, begin, below):
            return self._under_noise(runs)

    def _under_noise(self, runs: Tensor) -> Tensor:
        """The answers' probability ``[R]`` with noise on the subjects' embeddings."""
        shift = self.shift[runs]

        def add(name: str, given: Tensor, output: Tensor) -> Tensor:
            return output + shift.to(output.dtype)

        embeddings = {"": self.language_model.model.get_input_embeddings()}
        with hooked(embeddings, add):
            return _chances(self.language_model, self.batch.rows(self.facts[runs]))


def _layer(language_model: LanguageModel, kind: str, block: int) -> str:
    """The module that says what is restored."""
    if kind == "hidden":
        return language_model.block(block)
    return language_model.layer({"mlp": "mlp_out", "attention": "attn_out"}[kind], block)


def _chances(language_model: LanguageModel, batch: Batch) -> Tensor:
    """Probability ``[R]`` of each row's target, all its tokens together."""
    logits, ids, row = language_model.target_logits(batch)
    log = logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(1)
    return log.new_zeros(len(batch.labels)).index_add(0, row, log).exp()


def _put(state: Tensor, facts: Tensor, at: Tensor, hidden: Tensor) -> Tensor:
    """``hidden`` ``[R, T, d]`` with each row's token ``at`` as it is in ``state`` ``[F, T, d]``."""
    changed = hidden.clone()
    rows = torch.arange(len(at), device=at.device)
    changed[rows, at] = state[facts, at].to(hidden.dtype)
    return changed
