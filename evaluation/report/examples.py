"""Answers for a person to read: a few of every editor, kind of probe and verdict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from datamodules.records import KINDS

MOST = 3_000
"""Examples of a page."""
EACH = 25
"""Of one editor, kind, n, phase and verdict."""
LONGEST = 300
"""Characters of a text."""
RIGHT, WRONG, BETWEEN, NOT_JUDGED = "right", "wrong", "in between", "not judged"
VERDICTS = (RIGHT, WRONG, BETWEEN, NOT_JUDGED)


@dataclass(frozen=True)
class Example:
    """One answer, and what it is an answer to; texts may be anything a file or a model wrote.

    Attributes:
        editor: whose edit was asked.
        n: requests of the edit, or edits so far.
        phase: when it was asked.
        probe: its kind.
        record: its id.
        prompt: what was asked.
        before: what the unedited model says, given the expected answer up to each token.
        after: what the edited one says.
        expected: the right answer; on locality kinds it is the unedited model's.
        generated: the edited model's free continuation, if there is one.
        verdict: one of `VERDICTS`.
        why: it is not judged.
    """

    editor: str
    n: int
    phase: str
    probe: str
    record: str
    prompt: str
    before: str
    after: str
    expected: str
    generated: str
    verdict: str
    why: str = ""


def examples(
    lines: Iterable[Mapping], scorer: str, names: Mapping[str, str], most: int = MOST
) -> tuple[list[Example], int]:
    """The first answers of every editor, n, phase, kind and verdict; and how many there are in all.

    Args:
        lines: of answers.
        scorer: by which they are right or wrong.
        names: of the editors that are shown, as they are called here.
        most: examples, at most; where there are more, each group gives as many as the others.
    """
    groups: dict[tuple, list[Example]] = defaultdict(list)
    count = 0
    for line in lines:
        if line["editor"] not in names:
            continue
        count += 1
        verdict = verdict_of(line, scorer)
        key = (line["editor"], line["n"], line["phase"], line["probe"], verdict)
        if len(groups[key]) < EACH:
            groups[key].append(_example(line, verdict, names[line["editor"]]))
    each = max(1, most // max(1, len(groups)))
    shown = [example for group in groups.values() for example in group[:each]]
    step = max(1, -(-len(shown) // most))  # more groups than examples: each so many-th of them
    return shown[::step], count


def verdict_of(line: Mapping, scorer: str) -> str:
    """Whether an answer is right, by a scorer."""
    value = line[scorer]
    if value is None:
        return NOT_JUDGED
    return RIGHT if value == 1 else WRONG if value == 0 else BETWEEN


def _example(line: Mapping, verdict: str, editor: str) -> Example:
    local = KINDS[line["probe"]].local
    texts = {
        "record": line["record"],
        "prompt": line["prompt"],
        "before": line["before"] or line["generated_before"],
        "after": line["answer"],
        "expected": line["before"] if local else line["target"],
        "generated": line["generated"],
        "why": line["judged"] or "",
    }
    shown = {name: shortened(text or "") for name, text in texts.items()}
    return Example(editor, line["n"], line["phase"], line["probe"], verdict=verdict, **shown)


def shortened(text: str) -> str:
    """The text, or its beginning and a sign that it goes on; without what no page can hold."""
    text = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text[: LONGEST + 1])
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"
