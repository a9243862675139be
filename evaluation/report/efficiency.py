"""What editing cost: a row for each editor and n, from the costs of its chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

Training = Mapping[str, Mapping[str, float]]
NO_TRAINING: Training = MappingProxyType({})


def efficiency(
    costs: Mapping[str, Sequence[Mapping]],
    training: Training = NO_TRAINING,
) -> list[dict]:
    """One row per editor and n from the costs of its chunks.

    Columns: editor, n (how many requests an edit holds), device, ``seconds_per_edit``, the number
    of ``edits`` and how many were made ``at_once``, ``peak_gib`` while editing;
    ``seconds_per_probe`` and the number of ``probes``; ``preparation_seconds`` and
    ``preparation_peak_gib`` (once per model); ``training_seconds`` and ``training_peak_gib`` (once
    per model and data); ``seconds_per_edit_in_all``: with preparation and training shared out among
    the edits of the row. None: nothing of the kind was measured.

    Args:
        costs: of the chunks of each editor.
        training: seconds and peak GiB of the training of each editor that is trained.
    """
    return [
        {"editor": editor, "n": n}
        | _row(chunks, [c for c in chunks if c["run"]["n"] == n], learned)
        for editor, chunks in costs.items()
        for n in dict.fromkeys(chunk["run"]["n"] for chunk in chunks)
        for learned in [training.get(editor, {})]
    ]


def _row(
    all_chunks: Sequence[Mapping], chunks: Sequence[Mapping], training: Mapping[str, float]
) -> dict:
    """Of the chunks of one n; an editor is prepared before the first of all."""

    def total(name: str) -> float:
        return sum(chunk[name] for chunk in chunks)

    edits, probes = total("edits"), total("probes")
    preparing = max(chunk["preparation_seconds"] for chunk in all_chunks)
    peak = max(chunk.get("preparation_peak_gib", 0.0) for chunk in all_chunks)
    once = preparing + training.get("seconds", 0.0)
    return {
        "device": ", ".join(sorted({chunk["device"] for chunk in chunks})),
        "seconds_per_edit": total("edit_seconds") / edits if edits else None,
        "edits": edits,
        "at_once": max(chunk["at_once"] for chunk in chunks),
        "peak_gib": max(chunk["peak_gib"] for chunk in chunks) if edits else None,
        "seconds_per_probe": total("probe_seconds") / probes if probes else None,
        "probes": probes,
        "preparation_seconds": preparing,
        "preparation_peak_gib": peak or None,
        "training_seconds": training.get("seconds"),
        "training_peak_gib": training.get("peak_gib"),
        "seconds_per_edit_in_all": (total("edit_seconds") + once) / edits if edits else None,
    }
