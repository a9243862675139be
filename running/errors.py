"""What a user can mend is said in one line; a bug keeps its trace."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

from hydra.errors import InstantiationException
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from yaml import MarkedYAMLError, YAMLError

from files import first_line
from running import help  # noqa: F401 registers a resolver
from running.arguments import home, overrides
from running.folders import leave_no_empty_folder
from running.interruption import Terminated, how_to_go_on, terminable
from running.noise import quiet
from running.settings import check

Main = Callable[[DictConfig], float | None]

MENDABLE = (
    *(ValueError, OSError, MemoryError, FloatingPointError),
    *(OmegaConfBaseException, YAMLError, MisconfigurationException, SafetensorError),
)
"""Wrong settings and files, a training that diverges, and what the machine refuses: permissions,
a full disk, names, memory."""


def reporting_errors(main: Main) -> Main:
    """A script that checks its settings first, and ends with one line where one of them is wrong.

    It goes below ``hydra.main``.
    """

    @functools.wraps(main)
    def checked(cfg: DictConfig) -> float | None:
        quiet()
        try:
            with terminable():
                check(cfg)
                return main(cfg)
        except Terminated:
            if rank_zero_only.rank == 0:
                print(how_to_go_on(cfg), file=sys.stderr)
            raise
        except InstantiationException as error:
            if not isinstance(error.__cause__, (*MENDABLE, TypeError)):
                raise
            sys.exit(f"error: {_of_part(cfg, error)}")
        except MENDABLE as error:
            sys.exit(f"error: {text(error)}")
        finally:
            leave_no_empty_folder()

    return checked


def _of_part(cfg: DictConfig, error: InstantiationException) -> str:
    """What a part of the configuration says against its settings, and where it stands."""
    key = home(cfg, str(error).rpartition("full_key: ")[2])
    below = [o for o in overrides() if o.lstrip("+~").startswith(f"{key}.")]
    wrong_type = isinstance(error.__cause__, TypeError)
    behind = f" ({' '.join(below)})" if below and wrong_type else ""
    return f"{key}: {text(error.__cause__ or error)}{behind}"


def text(error: BaseException) -> str:
    """The first line, without those that OmegaConf and others put below it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: {error.problem or error.context}"
    line, _, more = str(error).strip().partition("\n")
    if line.endswith(":"):  # what is wrong stands below
        line = f"{line} {first_line(more)}"
    line = line.strip() or type(error).__name__
    key = isinstance(error, OmegaConfBaseException) and error.full_key
    return f"{key}: {line}" if key else line
