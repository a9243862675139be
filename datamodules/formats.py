"""What a file is that is not of the format it was read as: a guess by the names of its fields."""

from __future__ import annotations

from collections.abc import Sequence

SIGNS: tuple[tuple[frozenset[str], str], ...] = tuple(
    (frozenset(fields.split()), format)
    for fields, format in (
        ("requested_rewrite new_single_hops", "data=mquake"),
        ("requested_rewrite paraphrase_prompts", "data=counterfact"),
        ("src alt subject", "data=zsre"),
        ("edit example_type", "data=ripple_edits"),
        ("question object yes_question", "data=hallucination"),
        ("text labels concept", "data=knowedit"),
        ("prompt subject target_new portability locality", "data=knowedit"),
        ("prompt subject target rephrase locality", "data=qaedit"),
        ("prompt subject target_new ground_truth rephrase_prompt locality_prompt", "data=requests"),
        ("prompt target_new", "data=requests"),
        ("goal sol1 sol2", "other_task=piqa, which goes beside records and has none of its own"),
        ("known_id attribute template", "ROME's known facts, which have no new target"),
        ("ent pos neg", "KnowEdit's ConvSent: opinions, which have no target"),
        ("instruction input output", "texts to fine-tune on, which have no subject"),
    )
)
"""The fields by which a format is told, and how it is chosen; the first that fits counts."""


def guess(rows: Sequence[object], but: str = "") -> str:
    """How a file with these objects would be read, for an error; empty where nothing fits.

    Args:
        rows: what the file holds.
        but: the format that it was read as, which is not offered.
    """
    first = next((row for row in rows if isinstance(row, dict)), None)
    if first is None:
        return ""
    formats = (format for fields, format in SIGNS if fields <= first.keys())
    format = next((format for format in formats if format != f"data={but}"), None)
    return f"; its fields are those of {format}" if format else ""
