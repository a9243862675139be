"""KE: a network that reads a request and says how its gradient is to be gated and shifted.

De Cao, Aziz, Titov: "Editing Factual Knowledge in Language Models", EMNLP 2021,
https://arxiv.org/abs/2104.08164, section 3. Departures from the authors' code, with the reason:

- no gradient is formed: gates of rank 1 act on its factors, ``(r c^T) * sum_t delta_t u_t^T =
  sum_t (r * delta_t) (c * u_t)^T``, so that independent edits share a forward pass;
- the feed-forward maps of the last blocks are edited, as in the re-implementation EFK by Mitchell
  et al. (https://arxiv.org/abs/2110.11309), not all matrices;
- several requests together get the sum of their updates, where the authors have no rule;
- a batch holds independent edits, each with locality probes of its own;
- a further round of an edit is computed anew, on the edited model.

EFK is ``KeTraining(objective="weighted", smoothing=0.0, optimiser="adam", lr=1e-5)`` with widths
of 512, 768 and 512; its code normalises the gates of GPT-2's maps over the inputs
(``softmax="inputs"``).
"""

# B requests, n rows of all of them, d_in/d_out layer widths

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast, final

from torch import Tensor, nn

from datamodules.records import Request
from editors.meta_learning.conditioner import Conditioner, Gates
from editors.meta_learning.factors import Factors
from editors.meta_learning.hypernetwork import Hypernetwork
from editors.meta_learning.training import HypernetworkTraining
from editors.settings import at_least, one_of, positive
from edits.updates import Dense, LowRank
from edits.weights import WeightEdit
from files import first_line
from models.encoding import Batch
from models.hooks import compute_dtype
from models.language_model import LanguageModel
from models.rendering import Rendering

SOFTMAX = ("outputs", "inputs")
REMEMBERED = 2**16  # most answers of the unedited model in memory


@dataclass(frozen=True, kw_only=True)
class KeTraining(HypernetworkTraining):
    """`HypernetworkTraining` with the paper's defaults for KE."""

    objective: str = "constrained"
    smoothing: float = 0.1
    outer: str = "both"
    kl_positions: str = "target"
    optimiser: str = "rmsprop"
    lr: float = 3e-4


PAPER = KeTraining()


@final
class Ke(Hypernetwork):
    """The update of a layer is ``s * (a_out a_in^T * G + b_out b_in^T)``, G the request's gradient.

    The scalar s, below ``max_scale``, and the gates come from the text ``answer >> target ||
    prompt``, where the answer is the model's before the edit.

    Args:
        language_model: the model to edit.
        layers: see `Hypernetwork`.
        lstm_width: of the text's encoder, in each direction.
        condition_width: of the encoded text.
        gate_width: hidden width of the network that gives a layer's gates.
        max_scale: largest s.
        softmax: the side whose gates are positive and sum to 1, ``"outputs"`` or ``"inputs"``; the
            other side's are free.
        answer_tokens: length of the model's answer in the text.
        training: see `Hypernetwork`.
    """

    BUNDLES: ClassVar[Mapping[str, type]] = {"training": KeTraining}

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        layers: Sequence[str] | None = None,
        lstm_width: int = 128,
        condition_width: int = 1024,
        gate_width: int = 128,
        max_scale: float = 1.0,
        softmax: str = "outputs",
        answer_tokens: int = 8,
        training: HypernetworkTraining = PAPER,
    ):
        super().__init__(language_model, layers=layers, training=training)
        one_of("softmax", softmax, SOFTMAX)
        positive(max_scale=max_scale)
        at_least(1, answer_tokens=answer_tokens, lstm_width=lstm_width)
        at_least(1, condition_width=condition_width, gate_width=gate_width)
        self.max_scale, self.softmax, self.answer_tokens = max_scale, softmax, answer_tokens
        table = cast(nn.Embedding, language_model.model.get_input_embeddings())
        embeddings = table.weight.detach()
        embeddings = embeddings.to(compute_dtype(embeddings.dtype))
        self.conditioner = Conditioner(embeddings, lstm_width, condition_width)
        shapes = [language_model.shape(layer) for layer in self.layers]
        if softmax == "outputs":
            shapes = [(d_out, d_in) for d_in, d_out in shapes]
        self.gates = nn.ModuleList(
            Gates(rows, columns, condition_width, gate_width) for rows, columns in shapes
        )
        self._answers: dict[str, str] = {}
        self.in_precision()

    def updates(
        self,
        requests: Sequence[Request],
        factors: Mapping[str, Factors],
        joint: bool,
        after: WeightEdit | None,
    ) -> dict[str, LowRank | Dense]:
        """One update a request, or their sum if ``joint``."""
        return self.gated(self.conditioner(self.texts(requests, after)), factors, joint)

    def gated(
        self, conditions: Tensor, factors: Mapping[str, Factors], joint: bool
    ) -> dict[str, LowRank | Dense]:
        """The updates under conditions ``[B, c]``."""
        updates = {}
        for layer, gates in zip(self.layers, self.gates, strict=True):
            a_row, a_col, b_row, b_col, share = gates(conditions)
            scale = self.max_scale * share
            a, b = (scale * a_row, a_col), (scale * b_row, b_col)
            if self.softmax == "outputs":
                a, b = a[::-1], b[::-1]
            rows = factors[layer]
            rows = replace(
                rows, keys=rows.keys * a[0][rows.request], deltas=rows.deltas * a[1][rows.request]
            )
            updates[layer] = rows.with_row(*b).update(joint)
        return updates

    def texts(self, requests: Sequence[Request], after: WeightEdit | None = None) -> Batch:
        """What the network reads of each request.

        Raises:
            ValueError: it has more tokens than the language model takes.
        """
        try:
            answers = self._first_lines([request.prompt for request in requests], after)
            pairs = zip(answers, requests, strict=True)
            texts = [f"{answer} >> {r.target} || {r.prompt}" for answer, r in pairs]
            return self.language_model.rendered(Rendering()).encode(texts, None).read
        except ValueError as error:
            raise ValueError(f"the text that ke reads of a request: {error}") from error

    def _first_lines(self, prompts: Sequence[str], after: WeightEdit | None) -> list[str]:
        """The first line of the model's answer to each prompt; the clean model's are kept."""
        tokens = self.answer_tokens
        if after is not None:
            rows = None if len(after) == 1 else range(len(prompts))
            edited = after.edited(self.language_model)
            texts = edited.generate(prompts, rows=rows, max_new_tokens=tokens)
            return [first_line(text) for text in texts]
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._answers]
        if len(self._answers) + len(new) > REMEMBERED:
            self._answers.clear()
            new = list(dict.fromkeys(prompts))
        if new:
            texts = self.language_model.generate(new, max_new_tokens=tokens)
            self._answers.update(zip(new, map(first_line, texts), strict=True))
        return [self._answers[prompt] for prompt in prompts]
