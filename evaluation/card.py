"""The card of an edit, of an edited model or of an adapter: a README.md as the hub shows it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from edits.history import History, requests_in
from evaluation.check import Check
from files import counted

MOST = 500
"""Facts that are listed."""

USE = {
    "errata": (
        "import errata\n\n"
        'model = errata.load("{base}")\n'
        'print(model.with_edit(errata.load_edit(model, "edit.safetensors")).generate("{prompt}"))'
    ),
    "transformers": (
        "from transformers import pipeline\n\n"
        'print(pipeline("{task}", model="{folder}")("{prompt}"))'
    ),
    "peft": (
        "from peft import PeftModel\n"
        "from transformers import {auto}\n\n"
        'base = {auto}.from_pretrained("{base}")\n'
        'model = PeftModel.from_pretrained(base, "{folder}")'
    ),
}
"""By the library that reads it, how it is used."""


def card(
    folder: str, library: str, base: str, history: History, check: Check, decoder_only: bool = True
) -> str:
    """Facts, method, and what a check said, as Markdown.

    Args:
        folder: the name of the card's own.
        library: that reads what lies beside it; one of `USE`.
        base: name of the unedited model.
        history: what was made true, and how.
        check: of the edit.
        decoder_only: whether the model is.
    """
    requests = requests_in(history)
    editors = list(dict.fromkeys(making.editor for making in history))
    head = ["---", f"library_name: {library}"]
    head += [f"base_model: {base}"] if base.count("/") == 1 and not base.startswith(".") else []
    head += ["tags:", *(f"- {tag}" for tag in ("knowledge-editing", *editors)), "---"]
    said = {fact.request.prompt: fact.request for fact in check.facts}
    rows = []
    for request in requests[:MOST]:
        answer = said.get(request.prompt)
        now = ("yes" if answer.right else f"no: {answer.now}") if answer else "not asked"
        rows.append((request.prompt, request.target, answer.before if answer else "", now))
    more = len(requests) - MOST
    use = USE[library].format(
        base=base,
        folder=folder,
        prompt=requests[0].prompt if requests else "",
        task="text-generation" if decoder_only else "text2text-generation",
        auto="AutoModelForCausalLM" if decoder_only else "AutoModelForSeq2SeqLM",
    )
    parts = [
        "\n".join(head),
        f"# {base}, with {counted(len(requests), 'fact')} corrected",
        f"Made with Errata: {_how(history)}.",
        f"```python\n{use}\n```",
        "## What it does\n\n" + _table(("measure", "value"), list(check.lines().items())),
        "## Facts\n\n" + _table(("prompt", "is to be followed by", "before", "said now"), rows),
    ]
    parts += [f"And {more:,} more."] if more > 0 else []
    return "\n\n".join(parts) + "\n"


def _how(history: History) -> str:
    """Who made how many facts, and when."""
    parts = []
    by_day = groupby(history, lambda making: (making.editor, making.date[:10], making.errata))
    for (editor, day, errata), makings in by_day:
        facts = counted(sum(len(making.requests) for making in makings), "fact")
        parts.append(f"{facts} by `{editor}` on {day} (version {errata})")
    return "; ".join(parts)


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ("---",) * len(heading), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
