"""The two models of SERAC: one says whether a question is about an edit, one answers if so."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from editors.memory.encoder import Encoder, PairPooled, PairTexts, copied_body, loaded
from editors.memory.scope import CrossAttentionScope, EmbeddingScope, Scope
from editors.memory.similarity import Distance
from editors.settings import one_of
from edits.routing import Entry
from models.language_model import LanguageModel

KINDS = ("embedding", "cross_attention")
FIELDS = ("prompt", "target", "question")


class Pair(nn.Module):
    """Scope classifier and counterfactual model; see `edits.routing.Models`.

    Args:
        scope: the classifier.
        counterfactual: the model that answers in scope.
        template: how a remembered edit stands in front of a question; ``{prompt}``, ``{target}``,
            ``{question}``, which is last.

    Raises:
        ValueError: the template lacks one of them, or the question is not at its end.
    """

    def __init__(self, scope: Scope, counterfactual: LanguageModel, template: str):
        super().__init__()
        missing = [name for name in FIELDS if template.count(f"{{{name}}}") != 1]
        if missing or not template.endswith("{question}"):
            raise ValueError(
                f"template={template!r}: expected {{prompt}} and {{target}} once each, "
                "and {question} at the end"
            )
        self.scope = scope
        self.counterfactual = counterfactual
        self.template = template

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell one training from another."""
        digest = hashlib.sha256(self.template.encode())
        for name, tensor in self.state_dict().items():
            value = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(name.encode() + value.numpy().tobytes())
        return digest.hexdigest()[:16]

    def keys(self, entries: Sequence[Entry]) -> Tensor:
        """Embeddings ``[M, d]`` of remembered edits."""
        return self.scope.keys(entries)

    def queries(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings ``[Q, d]`` of questions."""
        return self.scope.queries(prompts)

    def log_similarity(
        self, prompts: Sequence[str], queries: Tensor, entries: Sequence[Entry], keys: Tensor
    ) -> Tensor:
        """``log s`` ``[Q, M]``."""
        return self.scope.log_similarity(prompts, queries, entries, keys)

    def condition(self, entry: Entry, prompt: str) -> str:
        """The question behind the remembered edit."""
        parts = {"prompt": entry.prompt, "target": entry.target, "question": prompt}
        return self.template.format(**parts)

    def check(self, entries: Sequence[Entry]) -> None:
        """Refuse edits that leave no room for a question.

        Raises:
            ValueError: the text of an entry and its own prompt is longer than the model takes.
        """
        model = self.counterfactual
        conditions = [self.condition(entry, entry.prompt) for entry in entries]
        lengths = model.lengths(conditions, [entry.target for entry in entries])
        for entry, length in zip(entries, lengths, strict=True):
            if length > model.max_length:
                raise ValueError(
                    f"the request {entry.prompt[:40]!r}... in front of a question makes {length} "
                    f"tokens; the counterfactual model takes at most {model.max_length}"
                )


def scope_of(
    language_model: LanguageModel,
    kind: str,
    encoder: str | None,
    blocks: int | None,
    pooling: str,
    key: str,
    separator: str | None,
    distance: Distance,
) -> Scope:
    """The classifier; its encoder is a copy of the language model unless another one is named.

    Raises:
        FileNotFoundError: there is no such encoder.
        ValueError: a setting that is none of the known ones.
    """
    one_of("classifier", kind, KINDS)
    crosses = kind == "cross_attention"
    if encoder is None:
        body, tokenizer = copied_body(language_model, blocks), language_model.tokenizer
        most, name = language_model.max_length, language_model.name
        ends = cast("list[str | None]", [tokenizer.sep_token, tokenizer.eos_token])
        separator = separator or ends[0] or ends[1]
        if crosses:
            return CrossAttentionScope(
                PairPooled(body, tokenizer, most, name, separator, pooling=pooling), key
            )
    else:
        body, tokenizer, most = loaded(encoder, crosses)
        name = encoder
        if crosses:
            return CrossAttentionScope(PairTexts(body, tokenizer, most, name, separator), key)
    return EmbeddingScope(
        Encoder(body, tokenizer, most, name, separator, pooling=pooling), key, distance
    )


def counterfactual_of(language_model: LanguageModel, path: str | None) -> LanguageModel:
    """The counterfactual model: another one with the same vocabulary, or a copy.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: its vocabulary is another.
    """
    if path is None:
        model = copy.deepcopy(language_model.model).float()
        return LanguageModel(model, language_model.tokenizer, f"copy of {language_model.name}")
    model = LanguageModel.load(path, device=language_model.device)
    ours, theirs = (m.tokenizer.get_vocab() for m in (language_model, model))
    if ours != theirs:
        raise ValueError(
            f"the counterfactual model {path!r} has another vocabulary ({len(theirs)} tokens) "
            f"than {language_model.name!r} ({len(ours)}): its answers could not stand in"
        )
    return model
