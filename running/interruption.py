"""A run that is told to stop by SIGTERM (of a scheduler, a container, ``timeout``) can go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

STATUS = 128 + signal.SIGTERM


class Terminated(SystemExit):
    """SIGTERM arrived; whatever is in the middle of something unwinds, as at SIGINT."""

    def __init__(self):
        super().__init__(STATUS)


@contextmanager
def terminable() -> Iterator[None]:
    """Raises `Terminated` inside where SIGTERM arrives.

    Lightning calls a handler that was there before it behind its own, which alone would end the
    script as if it were through.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    raise Terminated


def how_to_go_on(cfg: DictConfig) -> str:
    """What to run after an interruption, in one line."""
    script = HydraConfig.get().job.config_name
    resumed = cfg.resume and Path(cfg.resume).is_dir()
    folder = Path(cfg.resume if resumed else HydraConfig.get().runtime.output_dir)
    needed = "checkpoints/last.ckpt" if "trains" in cfg else "config.yaml"
    if (folder / needed).is_file():
        return f"interrupted; go on with: python {script}.py resume={folder}"
    return "interrupted before there was anything to go on from; start again"
