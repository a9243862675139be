"""Documents for training a language model: batches of whole documents, and facts as documents."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol, cast

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.batches import as_dataset, padded_batches
from datamodules.editing import EditingData
from datamodules.loops import learner_of, trainer_of
from datamodules.records import LOCALITY, Record
from datamodules.text import TextCorpus
from files.bounds import at_least


class Text(Protocol):
    """Text that can be drawn anew for each pass."""

    def documents(self, number: int) -> list[str]:
        """The documents of pass ``number``; the same ones every time it is asked for."""
        ...

    def unseen(self) -> list[str]:
        """Documents that no pass contains, to measure perplexity on; may be empty."""
        ...


class DocumentData(L.LightningDataModule):
    """Batches ``{"input_ids", "attention_mask"}`` [B, T] of whole documents, right padded.

    Documents of like length share a batch, each starts at position 0 and ends with the tokenizer's
    end token. The tokenizer is that of the language model in training. Every epoch is a new pass:
    the trainer needs ``reload_dataloaders_every_n_epochs=1``.

    Args:
        text: what to learn.
        tokens_per_batch: padded tokens, at most.
        seed: of the order of batches.

    Raises:
        ValueError: a number is too small.
    """

    def __init__(self, text: Text, *, tokens_per_batch: int = 4096, seed: int = 0):
        super().__init__()
        at_least(1, tokens_per_batch=tokens_per_batch)
        at_least(0, seed=seed)
        self.text = text
        self.tokens_per_batch = tokens_per_batch
        self.seed = seed

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the first pass's documents and of those that none contains."""
        return TextCorpus([*self.text.documents(0), *self.text.unseen()]).fingerprint

    def train_dataloader(self) -> DataLoader:
        """The pass whose number is the epoch's."""
        number = trainer_of(self).current_epoch
        batches = self._batches(self.text.documents(number))
        random.Random(f"{self.seed}-{number}").shuffle(batches)
        return DataLoader(as_dataset(batches), batch_size=None)

    def val_dataloader(self) -> DataLoader | list:
        """What no pass contains."""
        unseen = self.text.unseen()
        return DataLoader(as_dataset(self._batches(unseen)), batch_size=None) if unseen else []

    def _batches(self, documents: Sequence[str]) -> list[dict[str, Tensor]]:
        language_model = learner_of(self)
        tokenizer = language_model.tokenizer
        encoded = tokenizer(list(documents), add_special_tokens=False)["input_ids"]
        end, pad = (cast(int, token) for token in (tokenizer.eos_token_id, tokenizer.pad_token_id))
        rows = [[*ids, end] for ids in encoded]
        longest = max(map(len, rows))
        if longest > language_model.max_length:
            raise ValueError(
                f"a document has {longest} tokens, end included; "
                f"the model takes at most {language_model.max_length}"
            )
        batches = padded_batches(rows, self.tokens_per_batch, pad)
        return [{"input_ids": ids, "attention_mask": mask} for ids, mask in batches]


class FactText:
    """True facts as documents, so that a model can learn what a file of records asks.

    Each pass has every fact once, alone or behind another one, so that what stands in front of a
    question does not matter.

    Args:
        facts: (prompt, answer) pairs.
        seed: of the order.
    """

    def __init__(self, facts: Sequence[tuple[str, str]], *, seed: int = 0):
        self.facts = list(facts)
        self.seed = seed

    def documents(self, number: int) -> list[str]:
        """Documents of one to three facts."""
        rng = random.Random(f"{self.seed}-{number}")
        sentences = [f"{prompt} {answer}." for prompt, answer in self.facts]
        rng.shuffle(sentences)
        documents, start = [], 0
        while start < len(sentences):
            size = rng.choice((1, 1, 2, 3))
            documents.append(" ".join(sentences[start : start + size]))
            start += size
        return documents

    def unseen(self) -> list[str]:
        """None: every fact is learned."""
        return []


def facts_of(*, seed: int = 0, **sources: EditingData) -> FactText:
    """What the records of some sources say was true: what a model must know before it is edited.

    Args:
        seed: of the order.
        **sources: of each, the records of all its splits, as many as its limits leave.

    Raises:
        ValueError: there is no source, or none has a fact.
    """
    records = [
        record
        for data in sources.values()
        for split, contents in data.splits().items()
        if contents
        for record in data.records(split)
    ]
    facts = known_facts(records)
    if not facts:
        names = ", ".join(sources) or "no source"
        raise ValueError(f"{names}: {len(records)} records without a true fact; expected some")
    rank_zero_info(f"{len(facts):,} facts of {len(records):,} records")
    return FactText(facts, seed=seed)


def known_facts(records: Iterable[Record]) -> list[tuple[str, str]]:
    """What was true before any edit: (prompt, answer) pairs, in order, each prompt once.

    The requests and their paraphrases with what was true, and locality prompts with their answers.
    Prompts to which the records give several answers are left out.
    """
    answers = defaultdict(dict)  # a dict keeps the order
    for record in records:
        local = ((probe.prompt, probe.target) for probe in record.of_kind(*LOCALITY))
        for prompt, answer in (*_truths(record), *local):
            answers[prompt][answer] = None
    return [(prompt, next(iter(texts))) for prompt, texts in answers.items() if len(texts) == 1]


def _truths(record: Record) -> list[tuple[str, str]]:
    """The requests and their paraphrases, each with what was true, as far as that is known.

    Where there are several requests, a paraphrase is told by its contrast, the old object.
    """
    probes = record.of_kind("reliability", "generalization")
    request, *others = record.requests
    if others:
        return [(probe.prompt, probe.contrast) for probe in probes if probe.contrast is not None]
    true = request.target_true
    return [] if true is None else [(probe.prompt, true) for probe in probes]
