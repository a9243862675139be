"""What editing cost: a row for each editor and n, from the costs of its chunks."""

from __future__ import annotations

from collections.abc import Mapping


def efficiency(costs: Mapping[str, list[dict]]) -> list[dict]:
    """One row per editor and n from the costs of its chunks.

    Columns: editor, n (how many requests an edit holds), device, ``preparation_seconds`` (once per
    model), ``seconds_per_edit``, the number of ``edits`` and how many were made ``at_once``,
    ``seconds_per_probe`` and the number of ``probes``, ``peak_gib`` while editing. None: nothing of
    the kind was measured.
    """
    return [
        _row(editor, n, [chunk for chunk in chunks if chunk["run"]["n"] == n])
        for editor, chunks in costs.items()
        for n in dict.fromkeys(chunk["run"]["n"] for chunk in chunks)
    ]


def _row(editor: str, n: int, chunks: list[dict]) -> dict:
    def total(name: str) -> float:
        return sum(chunk[name] for chunk in chunks)

    edits, probes = total("edits"), total("probes")
    return {
        "editor": editor,
        "n": n,
        "device": ", ".join(sorted({chunk["device"] for chunk in chunks})),
        "preparation_seconds": max(chunk["preparation_seconds"] for chunk in chunks),
        "seconds_per_edit": total("edit_seconds") / edits if edits else None,
        "edits": edits,
        "at_once": max(chunk["at_once"] for chunk in chunks),
        "seconds_per_probe": total("probe_seconds") / probes if probes else None,
        "probes": probes,
        "peak_gib": max(chunk["peak_gib"] for chunk in chunks) if edits else None,
    }
