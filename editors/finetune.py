"""Fine-tuning of one layer: FT, FT-L and FT-M, many requests at once.

FT and FT-L (FT+L) as the baselines of Meng et al., "Locating and Editing Factual Associations in
GPT", NeurIPS 2022, https://arxiv.org/abs/2202.05262; FT-M as in EasyEdit
(https://github.com/zjunlp/EasyEdit). Adam on the weight and the bias of a few layers, and nothing
else. Departure from FT-M there: its mean over tokens is taken within each request, then over
requests, whatever their lengths.
"""

# N edits, B requests, n target tokens, d_in/d_out layer widths

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.records import Request
from editors.editor import Editor, named
from edits.updates import compute_dtype
from edits.weights import Dense, WeightEdit
from models.encoding import IGNORED
from models.language_model import LanguageModel

OBJECTIVES = ("target", "prompt_last")


class FineTune(Editor):
    """Adam on the weights of a few layers until the new target is likely.

    Args:
        language_model: the model to edit.
        layers: names of the linear maps to train; by default ``mlp_out`` of the first block.
        objective: ``"target"`` scores each target token after the ones before it (FT-M);
            ``"prompt_last"`` scores all of them by the distribution after the prompt (FT, FT-L).
        norm_constraint: largest change of any weight, clamped after each step (FT-L); None: free.
        steps: at most.
        lr: of Adam.
        stop_loss: no more steps once the loss (nats per token) is below.
        weight_decay: Adam's L2 form, on the whole weight.
        bias: train the layers' biases too.
        edits_per_batch: independent edits trained at a time; each takes four copies of the layers.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        layers: Sequence[str] | None = None,
        objective: str = "target",
        norm_constraint: float | None = None,
        steps: int = 25,
        lr: float = 5e-4,
        stop_loss: float = 1e-2,
        weight_decay: float = 0.0,
        bias: bool = True,
        edits_per_batch: int = 16,
    ):
        if objective not in OBJECTIVES:
            raise ValueError(f"objective is {objective!r}, expected one of {', '.join(OBJECTIVES)}")
        if norm_constraint is not None and norm_constraint <= 0:
            raise ValueError(f"norm_constraint must be positive or null, got {norm_constraint}")
        self.language_model = language_model
        self.layers = [language_model.layer("mlp_out", 0)] if layers is None else named(layers)
        for layer in self.layers:
            language_model.shape(layer)
        for name, value in (("steps", steps), ("edits_per_batch", edits_per_batch)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.objective = objective
        self.norm_constraint = norm_constraint
        self.steps = steps
        self.lr = lr
        self.stop_loss = stop_loss
        self.weight_decay = weight_decay
        self.bias = bias
        self.edits_per_batch = edits_per_batch
        last = "ft" if norm_constraint is None else "ft_l"
        self.name = "ft_m" if objective == "target" else last

    def edit(self, requests: Sequence[Request], after: WeightEdit | None = None) -> WeightEdit:
        """One training run on the mean loss of all the requests; see `Editor.edit`."""
        edit, _ = self.run(requests, [0] * len(requests), after)
        return edit if after is None else after.plus(edit)

    def edit_each(self, requests: Sequence[Request]) -> WeightEdit:
        """One training run for each request, side by side; see `Editor.edit_each`."""
        size = self.edits_per_batch
        chunks = [requests[i : i + size] for i in range(0, len(requests), size)]
        if not chunks:
            raise ValueError("there are no requests to edit for")
        return WeightEdit.stack([self.run(some, range(len(some)))[0] for some in chunks])

    @torch.enable_grad()
    def run(
        self, requests: Sequence[Request], edit: Sequence[int], after: WeightEdit | None = None
    ) -> tuple[WeightEdit, list[list[float]]]:
        """Train N edits on the model as ``after`` made it; request b belongs to ``edit[b]``.

        Returns:
            The N edits without ``after``, and each one's loss before every step it took part in.

        Raises:
            ValueError: there are no requests.
        """
        if not requests:
            raise ValueError("there are no requests to edit for")
        texts = _Texts(self.language_model, requests, self.objective)
        changes = _Changes(self.language_model, self.layers, max(edit) + 1, self.bias)
        optimizer = torch.optim.Adam(
            changes.tensors(), self.lr, fused=self.language_model.device.type == "cpu"
        )
        history: list[list[float]] = [[] for _ in range(len(changes))]
        active = list(range(len(changes)))
        for _ in range(self.steps):
            losses = self._losses(texts, edit, active, changes, after)
            for number, loss in zip(active, losses.tolist(), strict=True):
                history[number].append(loss)
            going = losses >= self.stop_loss
            active = [number for number in active if history[number][-1] >= self.stop_loss]
            if not active:
                break
            self._step(optimizer, losses[going].sum(), changes, active)
        with torch.no_grad():
            return self._edit(changes, range(len(changes))), history

    def _losses(
        self,
        texts: _Texts,
        edit: Sequence[int],
        active: Sequence[int],
        changes: _Changes,
        after: WeightEdit | None,
    ) -> Tensor:
        """Mean loss of each active edit's requests."""
        rows = [row for row, number in enumerate(edit) if number in active]
        place = torch.tensor([active.index(edit[row]) for row in rows])
        model = self.language_model
        before = nullcontext() if after is None else after.hooks(model)
        with before, self._edit(changes, active).hooks(model, place if len(changes) > 1 else None):
            per_request = texts.losses(rows)
        return _means(per_request, place.to(per_request.device), len(active))

    def _step(
        self,
        optimizer: torch.optim.Optimizer,
        loss: Tensor,
        changes: _Changes,
        active: Sequence[int],
    ) -> None:
        """One step of the active edits; the others, whose gradient is None, stay as they are."""
        optimizer.zero_grad()
        tensors, starts = changes.of(active)
        for tensor, start, gradient in zip(
            tensors, starts, torch.autograd.grad(loss, tensors), strict=True
        ):
            tensor.grad = gradient.contiguous().add(
                start + tensor.detach(), alpha=self.weight_decay
            )
        optimizer.step()
        if self.norm_constraint is not None:
            with torch.no_grad():
                for tensor in tensors:
                    tensor.clamp_(-self.norm_constraint, self.norm_constraint)

    def _edit(self, changes: _Changes, numbers: Sequence[int]) -> WeightEdit:
        return WeightEdit(changes.dense(numbers), self.name, self.language_model.fingerprint)


class _Changes:
    """What is trained: for each of N edits the change of each layer's weight and bias."""

    def __init__(
        self, language_model: LanguageModel, layers: Sequence[str], edits: int, bias: bool
    ):
        self.starts: dict[str, list[Tensor]] = {}  # layer -> weight [d_in, d_out], bias [d_out]
        for layer in layers:
            module, dtype = language_model.module(layer), compute_dtype(language_model.dtype)
            language_model.shape(layer)  # refuses what is no linear map
            weight = module.weight.T if isinstance(module, nn.Linear) else module.weight
            own = [weight, module.bias] if bias and module.bias is not None else [weight]
            # fused Adam reads memory in order: values and gradients must be laid out alike
            self.starts[layer] = [tensor.detach().to(dtype).contiguous() for tensor in own]
        self.values = {
            layer: [[torch.zeros_like(s).requires_grad_() for s in starts] for _ in range(edits)]
            for layer, starts in self.starts.items()
        }

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def of(self, numbers: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        """The changes of some edits, and where each of these tensors starts from."""
        pairs = [
            pair
            for layer, starts in self.starts.items()
            for number in numbers
            for pair in zip(self.values[layer][number], starts, strict=True)
        ]
        return [value for value, _ in pairs], [start for _, start in pairs]

    def tensors(self) -> list[Tensor]:
        """All the changes."""
        return self.of(range(len(self)))[0]

    def dense(self, numbers: Sequence[int]) -> dict[str, Dense]:
        """Some edits' changes as updates; differentiable where gradients are on."""
        return {
            layer: Dense(*(torch.stack(x) for x in zip(*(own[n] for n in numbers), strict=True)))
            for layer, own in self.values.items()
        }


class _Texts:
    """The requests as token ids, and how likely their targets are."""

    def __init__(self, language_model: LanguageModel, requests: Sequence[Request], objective: str):
        prompts, targets = [r.prompt for r in requests], [r.target for r in requests]
        self.language_model = language_model
        self.batch = language_model.encode(prompts, targets)
        alone = objective == "prompt_last"
        self.prompts = language_model.encode(prompts, None) if alone else None

    def losses(self, rows: Sequence[int]) -> Tensor:
        """Mean negative log-likelihood (nats per token) of each request's target."""
        model, batch = self.language_model, self.batch.of(rows)
        if self.prompts is None:
            logits, targets, row = model.target_logits(batch)
        else:
            prompts = self.prompts.of(rows)
            last = prompts.attention_mask.sum(1) - 1
            hidden = model.hidden(prompts)[torch.arange(len(rows), device=last.device), last]
            row, position = (batch.labels != IGNORED).nonzero(as_tuple=True)
            logits, targets = model.head(hidden)[row], batch.labels[row, position]
        return _means(F.cross_entropy(logits, targets, reduction="none"), row, len(rows))


def _means(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Mean of the values of each group."""
    sums = values.new_zeros(groups).index_add(0, group, values)
    return sums / torch.bincount(group, minlength=groups)
