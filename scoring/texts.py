"""Scorers of freely generated texts, as a user reads them.

The normalisation is that of Rajpurkar et al., "SQuAD", EMNLP 2016, https://arxiv.org/abs/1606.05250
(lower case, no punctuation, no articles), here with all of Unicode's punctuation. That a text is
judged as it stands up to its natural end is WILD's demand: Yang et al., "The Mirage of Model
Editing", ACL 2025, https://arxiv.org/abs/2502.11177.
"""

from __future__ import annotations

import re
import unicodedata

from datamodules.records import KINDS, Probe
from files import first_line
from scoring.answers import Answer
from scoring.fluency import n_gram_entropy
from scoring.tf_idf import TfIdf

LONGEST, TIMES = 8, 3
"""Words of what a text repeats, at most; how often it then stands there in a row."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def generation_exact_match(probe: Probe, after: Answer, before: Answer) -> float:
    """1 if the freely generated text starts with the target as whole words, else 0.

    Greedy, nothing of the target is given; after the target no letter or digit may follow at once.
    Any right answer will do. On locality probes: 1 if the first line generated is the unedited
    model's first line.
    """
    text = after.text or ""
    if KINDS[probe.kind].local:
        return float(first_line(text) == first_line(before.text or ""))
    return float(any(_begins(text.strip(), answer.strip()) for answer in probe.answers))


def normalized_exact_match(probe: Probe, after: Answer, before: Answer) -> float:
    """1 if the whole generated text is a right answer, but for case, punctuation, articles, else 0.

    So it depends on where the text ends: on the run's stop strings. On locality probes: 1 if the
    text is the unedited model's, in the same way.
    """
    local = KINDS[probe.kind].local
    right = (before.text or "",) if local else probe.answers
    return float(normalized(after.text or "") in {normalized(answer) for answer in right})


def contains(probe: Probe, after: Answer, before: Answer) -> float | None:
    """1 if a right answer stands somewhere in the generated text, as whole words, else 0.

    Normalised as in ``normalized_exact_match``. Not of locality probes.
    """
    if KINDS[probe.kind].local:
        return None
    return float(any(says(after.text, answer) for answer in probe.answers))


def says_old(probe: Probe, after: Answer, before: Answer) -> float | None:
    """1 if the old answer, the contrast, stands in the generated text: the edit leaks. Else 0."""
    if KINDS[probe.kind].local or probe.contrast is None:
        return None
    return float(says(after.text, probe.contrast))


def says_new(probe: Probe, after: Answer, before: Answer) -> float | None:
    """1 if the text about something else, on locality probes, says the request's target. Else 0."""
    if not KINDS[probe.kind].local or probe.contrast is None:
        return None
    return float(says(after.text, probe.contrast))


def replaces_old(probe: Probe, after: Answer, before: Answer) -> float | None:
    """1 if the generated text says a right answer and not the old one, else 0."""
    new, old = contains(probe, after, before), says_old(probe, after, before)
    return None if new is None or old is None else float(new > old)


def ends_by_itself(probe: Probe, after: Answer, before: Answer) -> float | None:
    """1 if the model ended the text by its own end token, before limit or stop string, else 0."""
    return None if after.ended is None else float(after.ended)


def repeats_itself(probe: Probe, after: Answer, before: Answer) -> float:
    """1 if one to eight words stand three times in a row in the generated text, else 0."""
    words = normalized(after.text or "").split()
    starts = ((at, size) for size in range(1, LONGEST + 1) for at in range(len(words)))
    return float(any(_repeated(words[at : at + TIMES * size], size) for at, size in starts))


def fluency(probe: Probe, after: Answer, before: Answer) -> float:
    """Entropy in bits of the text's word bigrams and trigrams, ROME's GE; low: it repeats itself.

    See `n_gram_entropy`. It grows with the length of texts, so compare those of one length.
    """
    return n_gram_entropy(after.text or "")


def consistency(probe: Probe, after: Answer, before: Answer) -> float | None:
    """Cosine of the text's and the references' words by tf-idf, ROME's RS, from 0 to 1.

    Of probes that have references, whose words are weighed by how few of them they are in. (ROME's
    weights are of Wikipedia.)
    """
    if not probe.references:
        return None
    return TfIdf.of(probe.references).cosine(after.text or "", " ".join(probe.references))


def judge(probe: Probe, after: Answer, before: Answer) -> float | None:
    """1 if the run's judge takes the generated text for a right answer, else 0."""
    if after.verdict is None or after.verdict.right is None:
        return None
    return float(after.verdict.right)


def normalized(text: str) -> str:
    """The text in lower case, without punctuation, articles and superfluous blanks."""
    lower = text.lower()
    letters = "".join(c for c in lower if not unicodedata.category(c).startswith("P"))
    return " ".join(_ARTICLES.sub(" ", letters).split())


def says(text: str | None, answer: str) -> bool:
    """Whether the answer stands in the text, as whole words, both normalised."""
    return f" {normalized(answer)} " in f" {normalized(text or '')} "


def _begins(text: str, answer: str) -> bool:
    return text.startswith(answer) and not text[len(answer) :][:1].isalnum()


def _repeated(words: list[str], size: int) -> bool:
    return len(words) == TIMES * size and words == TIMES * words[:size]
