"""MEMOIR: one residual matrix for all requests, of which each may change some rows.

Wang et al., "MEMOIR: Lifelong Model Editing with Minimal Overwrite and Informed Retention for
LLMs", NeurIPS 2025, https://arxiv.org/abs/2506.07899. What a request may use, and which prompts are
read with it, see `edits.masked`; here the matrix is trained. Departures: the permutation is drawn
by a seed and kept in the edit; masks are made of a prompt's own tokens, whatever follows it;
requests that come together are trained together, each with its own mask; weight decay pulls on what
an edit changes, not on the matrix of the requests before.
"""

# N edits, S requests of all of them, R rows, d_in/d_out layer widths

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from datamodules.pool import Pool
from datamodules.records import Request
from editors.additional_parameters.memory import texts_of
from editors.additional_parameters.scope import default_layer, drawn
from editors.descent import OPTIMISERS, Descent, means
from editors.editor import Editor, Group, alike
from editors.finetune import Texts
from editors.locate_then_edit.search.contexts import Contexts
from editors.settings import at_least, one_of, positive, shares
from edits import masked
from edits.masked import FEATURES, Masked, MaskedEdit, TopHash
from edits.rows import shift_of
from edits.updates import Dense
from models.hooks import Output, compute_dtype, full_precision, hooked, unflattened, widened
from models.language_model import LanguageModel


class Memoir(Editor[MaskedEdit]):
    """Trains the rows of a matrix that the masks of requests let through.

    Args:
        language_model: the model to edit; decoder-only.
        layer: linear map beside which the matrix stands; by default ``mlp_out`` of the block three
            quarters up.
        pool: whose texts say what inputs are in the mean; only ``background: 0`` goes without.
        background: how many texts.
        features: what of a prompt a mask is made of, see `edits.masked.FEATURES`.
        active: share of the inputs that a mask lets through.
        overlap: share of a mask from which on a prompt is like a request.
        contexts: what requests are put behind while the matrix is trained.
        steps: of a descent, at most.
        lr: of the optimiser.
        optimiser: ``sgd``, which is theirs, or ``adam``.
        weight_decay: of the optimiser, in its L2 form.
        clip: longest gradient of an edit; None: any.
        stop_loss: no more steps once the loss (nats per token) is below; None: all steps.
        seed: of the permutation, and of the texts.
        edits_per_batch: independent edits trained at a time.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        layer: str | None = None,
        pool: Pool | None = None,
        background: int = 100,
        features: str = "mean",
        active: float = 2 / 7,
        overlap: float = 0.4,
        contexts: Contexts = Contexts(lengths=((5, 5), (10, 5))),  # noqa: B008 (frozen)
        steps: int = 30,
        lr: float = 1.0,
        optimiser: str = "sgd",
        weight_decay: float = 1e-5,
        clip: float | None = 1.0,
        stop_loss: float | None = 0.02,
        seed: int = 0,
        edits_per_batch: int = 16,
    ):
        language_model.require_decoder_only("memoir")
        at_least(0, background=background, weight_decay=weight_decay, stop_loss=stop_loss)
        at_least(1, steps=steps, edits_per_batch=edits_per_batch)
        positive(active=active, lr=lr, clip=clip)
        shares(active=active, overlap=overlap)
        one_of("features", features, FEATURES)
        one_of("optimiser", optimiser, list(OPTIMISERS))
        self.language_model = language_model
        self.layer = default_layer(language_model) if layer is None else layer
        language_model.shape(self.layer)
        self.pool = pool
        self.background = background
        self.features = features
        self.active = active
        self.overlap = overlap
        self.contexts = contexts
        self.steps = steps
        self.lr = lr
        self.optimiser = optimiser
        self.weight_decay = weight_decay
        self.clip = clip
        self.stop_loss = stop_loss
        at_least(0, seed=seed)
        self.seed = seed
        self.edits_per_batch = edits_per_batch
        self._templates: tuple[str, ...] = ()
        self._hashing: TopHash | None = None

    def prepare(self) -> None:
        """Writes the contexts and takes the mean inputs, once.

        Raises:
            ValueError: there is no pool to take texts of.
        """
        if self._hashing is not None:
            return
        if self.background and self.pool is None:
            raise ValueError("memoir takes its background of a pool: pool=records")
        self._templates = self.contexts.of(self.language_model)
        width, _ = self.language_model.shape(self.layer)
        order = torch.randperm(width, generator=torch.Generator().manual_seed(self.seed))
        mean = torch.zeros(width, dtype=compute_dtype(self.language_model.dtype))
        if self.pool is not None and self.background:
            texts = drawn(texts_of(self.pool.records), self.background, f"{self.seed}")
            given, prompt = self._given([text for text, _ in texts])
            mean = masked.features(given, prompt, self.features).mean(0)
        active = max(1, round(self.active * width))
        self._hashing = TopHash(order, mean, active, self.features)

    def compute(self, groups: Sequence[Group], after: MaskedEdit | None) -> MaskedEdit:
        """The matrices of all groups, those of one size side by side."""
        if after is not None:
            self._check_like(after)
        edits: dict[int, MaskedEdit] = {}
        for numbers in alike(groups, self.edits_per_batch):
            edit, _ = self.run([groups[n] for n in numbers], after)
            edits.update((n, edit.select(at)) for at, n in enumerate(numbers))
        each = [edits[n] for n in range(len(groups))]
        matrices, masks = (torch.cat([getattr(e, n) for e in each]) for n in ("matrices", "masks"))
        prompts = tuple(own for edit in each for own in edit.prompts)
        return self._edit(matrices, masks, prompts)

    def run(
        self, groups: Sequence[Group], after: MaskedEdit | None = None
    ) -> tuple[MaskedEdit, list[list[float]]]:
        """Train a matrix for each of the groups, which are of one size, going on from ``after``.

        Returns:
            The N edits, and each one's loss before every step.
        """
        requests = [request for group in groups for request in group]
        with full_precision(self.language_model.device):
            masks = self.hashing.masks(*self._given([r.prompt for r in requests]))
            writing = _Writing(self, groups, masks, None if after is None else after.matrices[0])
            changes = [[change] for change in writing.changes]
            descent = Descent(
                changes,
                steps=self.steps,
                lr=self.lr,
                optimiser=self.optimiser,
                weight_decay=self.weight_decay,
                clip=self.clip,
            )
            with torch.enable_grad():
                descent.run(writing.losses, writing.done)
        prompts = tuple(tuple(r.prompt for r in group) for group in groups)
        if after is not None:
            masks, prompts = torch.cat([after.masks, masks]), ((*after.prompts[0], *prompts[0]),)
        matrices = writing.matrices(range(len(groups))).detach()
        return self._edit(matrices, masks, prompts), writing.history

    @property
    def hashing(self) -> TopHash:
        """What makes masks, once the editor is prepared."""
        assert self._hashing is not None
        return self._hashing

    def texts(self, requests: Sequence[Request]) -> list[Request]:
        """Each request in all contexts, one after another."""
        return [
            replace(request, prompt=context.replace("{}", request.prompt))
            for request in requests
            for context in self._templates
        ]

    @torch.no_grad()
    def _given(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """What the layer is given ``[B, T, d_in]``, and where the prompts' tokens are."""
        batch, seen = self.language_model.encode(prompts, None), []

        def look(name: str, given: Tensor, output: Output) -> None:
            seen.append(widened(unflattened(given, len(prompts))))

        with hooked({"": self.language_model.module(self.layer)}, look):
            self.language_model.hidden(batch)
        return seen[0], batch.attention_mask.bool()

    def _edit(
        self, matrices: Tensor, masks: Tensor, prompts: tuple[tuple[str, ...], ...]
    ) -> MaskedEdit:
        print_ = self.language_model.fingerprint
        return MaskedEdit(
            matrices, masks, prompts, self.hashing, self.overlap, self.layer, self.name, print_
        )

    def _check_like(self, after: MaskedEdit) -> None:
        if not isinstance(after, MaskedEdit) or after.layer != self.layer:
            raise ValueError(f"memoir goes on from its own edits of {self.layer!r} only")
        own, theirs = self.hashing, after.hashing
        same = torch.equal(own.permutation, theirs.permutation.to(own.permutation))
        if not same or (own.active, own.which) != (theirs.active, theirs.which):
            raise ValueError("memoir: the edit before has masks of another seed, share or feature")


class _Writing:
    """The matrices of several edits while they are trained.

    Attributes:
        changes: what each edit adds to the matrix that there was.
        history: of each, its loss before every step.
    """

    def __init__(
        self, editor: Memoir, groups: Sequence[Group], masks: Tensor, before: Tensor | None
    ):
        self.editor, self.masks = editor, masks
        model, self.size = editor.language_model, len(groups[0])
        texts = editor.texts([request for group in groups for request in group])
        self.texts = Texts(model, texts, "target", [editor.layer])
        self.contexts = len(texts) // len(masks)
        kind = {"dtype": compute_dtype(model.dtype), "device": model.device}
        zeros = torch.zeros(model.shape(editor.layer), **kind)
        self.before = zeros if before is None else before.to(zeros)
        self.changes = [zeros.clone().requires_grad_() for _ in groups]
        self.history: list[list[float]] = [[] for _ in groups]

    def matrices(self, numbers: Sequence[int]) -> Tensor:
        """Those of the edits with these numbers, ``[n, d_in, d_out]``."""
        return torch.stack([self.before + self.changes[n] for n in numbers])

    def losses(self, active: list[int]) -> Tensor:
        """Of the edits with these numbers."""
        editor, model = self.editor, self.editor.language_model
        requests = [n * self.size + at for n in active for at in range(self.size)]
        owner = torch.arange(len(active), device=self.masks.device).repeat_interleave(self.size)
        parts = Masked(Dense(self.matrices(active)), self.masks[requests], owner)
        place = torch.arange(len(requests)).repeat_interleave(self.contexts)
        shift = shift_of(parts, place, model.device, self.before.dtype)

        def add(name: str, given: Tensor, output: Tensor) -> Tensor:
            return output + shift(given).to(output.dtype)

        rows = [number * self.contexts + at for number in requests for at in range(self.contexts)]
        with hooked({"": model.module(editor.layer)}, add):
            each = self.texts.losses(rows)
        values = means(each, owner.repeat_interleave(self.contexts), len(active))
        for number, value in zip(active, values.tolist(), strict=True):
            self.history[number].append(value)
        return values

    def done(self, active: list[int], values: Tensor) -> Tensor:
        """Which of them stop at these losses."""
        stop = self.editor.stop_loss
        return torch.zeros_like(values, dtype=torch.bool) if stop is None else values < stop
