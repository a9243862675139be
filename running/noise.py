"""What libraries say that means nothing to whoever runs a script."""

from __future__ import annotations

import logging
import warnings

ADVICE = (
    "Tip: ",
    "TPU available: False",
    "HPU available: False",
    "GPU available: False",
    "Restoring states from the checkpoint path",  # the line behind it says so, too
    "was configured so",
)
"""Parts of Lightning's messages that are left out."""
WARNINGS = (
    ".*LeafSpec.*",  # Lightning's, against newer torch
    ".*in eval mode at the start of training.*",  # a language model that is edited stays so
    ".*does not have many workers.*",  # batches are texts: there is nothing to load
    ".*smaller than the logging interval.*",
)


def quiet() -> None:
    """Lightning's messages go into the run's log, without its advice."""
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message)
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # a hub that cannot be reached is said once, by whoever asked
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    for name in ("rank_zero", "distributed"):
        logging.getLogger(f"lightning.pytorch.utilities.{name}").addFilter(_means_something)


def _means_something(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(part in message for part in ADVICE)
