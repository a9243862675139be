"""Makes ``scoring/judging/atlas_answers.csv`` of a run on Atlas, by the rule of its README.

python edit.py 'editors=[rome,ft_m,ft_l,kn,grace]' split=val data.limit=48 generation=users \
        'protocol.stop=[]'
python benchmarks/label_answers.py runs/edit/FOLDER
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
from collections import Counter, defaultdict
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

from datamodules.atlas.world import Relation, World
from datamodules.records import KINDS, Probe
from scoring.answers import Answer
from scoring.judging.agreement import LABELLED
from scoring.judging.judge import GROUPS
from scoring.texts import normalized, repeats_itself, says

COUNT, SEED = 200, 0
MOST = 2  # mentions of the answer in a text that does not repeat itself


class Labels:
    """Says of a text about Atlas whether it is right; the world's objects are a closed list."""

    def __init__(self, world: World):
        self.world = world
        self.wordings = [
            (re.compile(re.escape(prompt).replace(r"\{\}", "(.+)") + "$"), relation)
            for relation in world.relations.values()
            for prompt in relation.prompts
        ]

    def relation(self, question: str) -> Relation:
        """The relation that a question asks for."""
        [name] = {r.name for wording, r in self.wordings if wording.match(question)}
        return self.world.relations[name]

    def reasons(self, question: str, right: str, text: str) -> list[str]:
        """Why the text is no right answer; none if it is one."""
        first, answer = sentences(text)[0], normalized(right)
        others = {o for o in self.world.objects[self.relation(question).name] if o != right}
        # "Guinea" stands in "Guinea-Bissau": what is a part of the right answer is no other one
        rest = normalized(text).replace(answer, " ")
        said = Answer(text=text)
        repeated = repeats_itself(Probe("reliability", question, right), said, said)
        repeated = repeated or says(text, f"{answer} {answer}")
        twice = max(Counter(sentences(text)).values()) > 1
        found = {
            "does not begin with the answer": not re.match(
                rf"{re.escape(answer)}\b", normalized(first)
            ),
            "names another answer": any(says(rest, other) for other in others),
            "repeats itself": repeated or twice or normalized(text).count(answer) > MOST,
        }
        return [reason for reason, holds in found.items() if holds]

    def is_garbled(self, text: str) -> bool:
        """Whether it has words that Atlas does not have: what those say, nobody can tell."""
        return not set(normalized(text).split()) <= self.words

    @cached_property
    def words(self) -> set[str]:
        """All words of Atlas."""
        relations = self.world.relations.values()
        texts = [text for r in relations for text in (*r.prompts, *r.pronoun)]
        texts += [text for f in self.world.facts for text in (f.subject, f.object)]
        return set(normalized(" ".join([*texts, *self.world.alias.values()])).split())


def sentences(text: str) -> list[str]:
    """The parts that full stops end; never none."""
    return [part.strip() for part in text.split(". ") if part.strip()] or [""]


def answers(folder: Path) -> list[dict[str, str]]:
    """Every different question and text of the run whose right answer is known."""
    labels, rows = Labels(World()), {}
    for path in sorted((folder / "answers").glob("*/*.jsonl")):
        for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            if line["generated"] is None or KINDS[line["probe"]].group not in GROUPS:
                continue
            text = " ".join(line["generated"].split())
            reasons = labels.reasons(line["prompt"], line["target"], text)
            if not reasons and labels.is_garbled(text):
                continue
            rows[line["prompt"], line["target"], text] = {
                "question": line["prompt"],
                "right": line["target"],
                "text": text,
                "label": str(int(not reasons)),
                "why": "; ".join(reasons),
                "editor": line["editor"],
                "kind": line["probe"],
            }
    return list(rows.values())


def drawn(rows: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """As many right as wrong ones, and alike many of each editor and reason as far as they go."""
    rng, strata = random.Random(SEED), defaultdict(list)
    for row in rows:
        strata[row["label"], row["editor"], row["why"]].append(row)
    chosen = []
    for label in ("1", "0"):
        alike = [group for key, group in strata.items() if key[0] == label]
        groups = [rng.sample(group, len(group)) for group in alike]
        turns = [row for turn in zip_longest(*groups) for row in turn if row is not None]
        chosen += turns[: count // 2]
    return rng.sample(chosen, len(chosen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    rows = drawn(answers(parser.parse_args().folder), COUNT)
    with LABELLED.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for name in ("label", "editor", "why", "kind"):
        print(name, dict(Counter(row[name] for row in rows)))


if __name__ == "__main__":
    main()
