"""How TensorBoard groups curves: what belongs together stands in one chart (custom scalars)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from lightning.pytorch.loggers import TensorBoardLogger

from datamodules.records import KINDS
from evaluation.report.health import PERPLEXITY, RELATIVE_NORM

Layout = Mapping[str, Mapping[str, list]]
"""By category and chart, the kind of chart and the patterns of its tags."""


def _chart(*patterns: str) -> list:
    return ["Multiline", list(patterns)]


TRAINING: Layout = {
    "training": {
        "losses": _chart(r"^train/(.*_)?loss$", r"^(train|val)/nll$"),
        "success on val": _chart(r"^val/(.*/)?(score|reliability|generalization)$"),
        "locality on val": _chart(r"^val/(.*/)?(locality|unrelated|neighborhood)$"),
        "gradient": _chart(r"^train/grad_norm$"),
        "updates": _chart(r"^train/update_norm/"),
        "learning rates": _chart(r"^lr-"),
        "learning rates of edits": _chart(r"^train/edit_lr/"),
    }
}


def editing(tags: Iterable[str]) -> Layout:
    """Of an edit run: for each phase a chart of each kind of probe, of all editors.

    Args:
        tags: ``split_phase/kind/editor``, as `curves.scalars` has them.
    """
    parts = [tag.split("/", 2)[:2] for tag in tags]
    there = {(phase, kind) for phase, kind in parts}
    order = [*KINDS, PERPLEXITY, RELATIVE_NORM]
    return {
        phase.replace("_", " "): {
            kind.replace("_", " "): _chart(f"^{re.escape(phase)}/{kind}/")
            for kind in order
            if (phase, kind) in there
        }
        for phase in dict.fromkeys(phase for phase, _ in parts)
    }


def write(logger: object, layout: Layout) -> None:
    """Tell TensorBoard, if that is what the logger writes for."""
    if isinstance(logger, TensorBoardLogger) and layout:
        logger.experiment.add_custom_scalars(layout)
