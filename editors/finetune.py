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
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.records import Request
from editors.descent import Descent, means
from editors.editor import Group
from editors.settings import at_least, named, one_of, positive
from editors.weight_editor import WeightEditor
from edits.updates import Dense
from edits.weights import WeightEdit
from models.encoding import IGNORED, Batch
from models.hooks import Output, compute_dtype, recorded
from models.language_model import LanguageModel
from models.suffixes import KEPT, mapped, resumed

OBJECTIVES = ("target", "prompt_last")


class FineTune(WeightEditor):
    """Adam on the weights of a few layers until the new target is likely.

    Args:
        language_model: the model to edit.
        layers: names of the linear maps to train; by default ``mlp_out`` of the block two thirds
            up, of an encoder-decoder that of the decoder's last.
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
        one_of("objective", objective, OBJECTIVES)
        positive(lr=lr, norm_constraint=norm_constraint)
        at_least(1, steps=steps, edits_per_batch=edits_per_batch)
        at_least(0, stop_loss=stop_loss, weight_decay=weight_decay)
        self.language_model = language_model
        self.layers = [late_layer(language_model)] if layers is None else named(layers)
        for layer in self.layers:
            language_model.shape(layer)
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

    def write(self, groups: Sequence[Group], after: WeightEdit | None) -> WeightEdit:
        """One training run for each group, side by side, on the mean loss of its requests."""
        size = self.edits_per_batch
        chunks = [groups[i : i + size] for i in range(0, len(groups), size)]
        return WeightEdit.stack([self.run(chunk)[0] for chunk in chunks])

    @torch.enable_grad()
    def run(self, groups: Sequence[Group]) -> tuple[WeightEdit, list[list[float]]]:
        """Train an edit for each group on the model as it now is.

        Returns:
            The N edits, and each one's loss before every step it took part in.
        """
        owner = [number for number, group in enumerate(groups) for _ in group]
        requests = [request for group in groups for request in group]
        texts = Texts(self.language_model, requests, self.objective, self.layers)
        changes = Changes(self.language_model, self.layers, len(groups), self.bias)
        history: list[list[float]] = [[] for _ in groups]

        def losses(active: list[int]) -> Tensor:
            return self._losses(texts, owner, active, changes)

        def done(active: list[int], values: Tensor) -> Tensor:
            for number, loss in zip(active, values.tolist(), strict=True):
                history[number].append(loss)
            return ~(values >= self.stop_loss)

        def slope(number: int, at: int, gradient: Tensor) -> Tensor:
            weight = changes.starts[at] + changes.values[number][at].detach()
            return gradient.contiguous().add(weight, alpha=self.weight_decay)

        fused = self.language_model.device.type == "cpu"
        descent = Descent(changes.values, steps=self.steps, lr=self.lr, fused=fused)
        most = self.norm_constraint
        descent.run(losses, done, slope, None if most is None else partial(changes.clamp, most))
        with torch.no_grad():
            return self._edit(changes, range(len(groups))), history

    def _losses(
        self, texts: Texts, owner: Sequence[int], active: Sequence[int], changes: Changes
    ) -> Tensor:
        """Mean loss of each active edit's requests."""
        rows = [row for row, number in enumerate(owner) if number in active]
        place = torch.tensor([active.index(owner[row]) for row in rows])
        each = place if len(changes.values) > 1 else None
        with self._edit(changes, active).hooks(self.language_model, each):
            per_request = texts.losses(rows)
        return means(per_request, place.to(per_request.device), len(active))

    def _edit(self, changes: Changes, numbers: Sequence[int]) -> WeightEdit:
        return WeightEdit(changes.updates(numbers), self.name, self.language_model.fingerprint)


def late_layer(language_model: LanguageModel) -> str:
    """``mlp_out`` of the block two thirds up, of an encoder-decoder that of the decoder's last.

    Late, as ICT-STAR's search for the layer to fine-tune ended (LocFT-BF, ICLR 2026); the first
    block would change what every later one reads, at every token, and all of them would be run at
    each step.
    """
    blocks, decoder_only = language_model.blocks, language_model.family.encoder is None
    return language_model.layer("mlp_out", blocks * 2 // 3 if decoder_only else blocks - 1)


class Changes:
    """The trained tensors: for each of N edits the change of each layer's weight and bias.

    ``starts`` are the tensors that change, ``[d_in, d_out]`` and ``[d_out]``, layer by layer, and
    ``values`` each edit's changes of them.
    """

    def __init__(
        self, language_model: LanguageModel, layers: Sequence[str], edits: int, bias: bool
    ):
        self.starts: list[Tensor] = []
        self.parts: dict[str, slice] = {}  # layer -> its tensors
        for layer in layers:
            dtype, tensors = compute_dtype(language_model.dtype), [language_model.weight(layer)]
            tensors += [moved] if bias and (moved := language_model.bias(layer)) is not None else []
            self.parts[layer] = slice(len(self.starts), len(self.starts) + len(tensors))
            # fused Adam reads memory in order: values and gradients must be laid out alike
            self.starts += [tensor.detach().to(dtype).contiguous() for tensor in tensors]
        self.values = [
            [torch.zeros_like(start).requires_grad_() for start in self.starts]
            for _ in range(edits)
        ]

    def clamp(self, most: float, numbers: Sequence[int]) -> None:
        """Keep every element of these edits' changes between ``-most`` and ``most``."""
        for tensor in (tensor for number in numbers for tensor in self.values[number]):
            tensor.clamp_(-most, most)

    def updates(self, numbers: Sequence[int]) -> dict[str, Dense]:
        """The changes of these edits as updates; differentiable where gradients are on."""
        stacks = [torch.stack(x) for x in zip(*(self.values[n] for n in numbers), strict=True)]
        return {layer: Dense(*stacks[part]) for layer, part in self.parts.items()}


class Texts:
    """The requests as token ids, and how likely their targets are while some layers change.

    The blocks below the lowest of these are run once, if their output is not kept of too many
    tokens.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        requests: Sequence[Request],
        objective: str,
        layers: Sequence[str],
    ):
        prompts, targets = [r.prompt for r in requests], [r.target for r in requests]
        self.language_model = language_model
        self.batch = language_model.encode(prompts, targets)
        alone = objective == "prompt_last"
        self.prompts = language_model.encode(prompts, None) if alone else None
        read = self.batch if self.prompts is None else self.prompts
        small = read.input_ids.numel() <= KEPT
        self.first = lowest_block(language_model, layers) if small else 0
        self.below = self._run_once(read) if self.first else None

    def losses(self, rows: Sequence[int]) -> Tensor:
        """Mean negative log-likelihood (nats per token) of each request's target."""
        values, row = self.token_losses(rows)
        return means(values, row, len(rows))

    def token_losses(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of each token of these requests' targets, and its place there."""
        model, batch = self.language_model, self.batch.rows(rows)
        if self.prompts is None:
            batch = batch.trimmed()
            with self._resumed(rows, batch):
                logits, targets, row = model.target_logits(batch)
        else:
            prompts = self.prompts.rows(rows).trimmed()
            last = prompts.attention_mask.sum(1) - 1
            with self._resumed(rows, prompts):
                hidden = model.hidden(prompts)[torch.arange(len(rows), device=last.device), last]
            end = model.tokenizer.eos_token_id  # an encoder-decoder's, which no answer begins with
            target = (batch.labels != IGNORED) & (batch.labels != end)
            row, position = target.nonzero(as_tuple=True)
            logits, targets = model.head(hidden)[row], batch.labels[row, position]
        return F.cross_entropy(logits, targets, reduction="none"), row

    @torch.no_grad()
    def _run_once(self, batch: Batch) -> Output:
        name = self.language_model.block(self.first - 1)
        with recorded(self.language_model.modules_of([name])) as outputs:
            self.language_model.hidden(batch)
        return outputs[name]

    def _resumed(self, rows: Sequence[int], batch: Batch) -> AbstractContextManager[None]:
        width = batch.input_ids.shape[1]
        below = mapped(self.below, lambda hidden: hidden[rows, :width])
        return resumed(self.language_model, self.first, below)


def lowest_block(language_model: LanguageModel, layers: Sequence[str]) -> int:
    """The lowest block that has to be run when these layers change; 0 if it is not known."""
    blocks = [language_model.family.block_of(layer) for layer in layers]
    if language_model.family.encoder is not None or language_model.sharded:
        return 0  # decoders' blocks hand more on than what they say; processes pass in step
    return min((0 if block is None else block for block in blocks), default=0)
