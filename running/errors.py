"""What a user can mend is said in one line; a bug keeps its trace."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from files import first_line
from running import help  # noqa: F401 registers a resolver
from running.folders import leave_no_empty_folder
from running.interruption import Terminated, how_to_go_on, terminable
from running.noise import quiet
from running.settings import check, contents

Main = Callable[[DictConfig], None]

MENDABLE = (ValueError, OSError, OmegaConfBaseException, YAMLError)
"""Wrong settings and files, and what the machine refuses: permissions, a full disk, names."""


def reporting_errors(main: Main) -> Main:
    """A script that checks its settings first, and ends with one line where one of them is wrong.

    It goes below ``hydra.main``.
    """

    @functools.wraps(main)
    def checked(cfg: DictConfig) -> None:
        quiet()
        try:
            with terminable():
                check(cfg)
                main(cfg)
        except Terminated:
            if rank_zero_only.rank == 0:
                print(how_to_go_on(cfg), file=sys.stderr)
            raise
        except InstantiationException as error:
            if not isinstance(error.__cause__, (*MENDABLE, TypeError)):
                raise
            sys.exit(f"error: {_of_part(cfg, error)}")
        except MENDABLE as error:
            sys.exit(f"error: {_text(error)}")
        finally:
            leave_no_empty_folder()

    return checked


def _of_part(cfg: DictConfig, error: InstantiationException) -> str:
    """What a part of the configuration says against its settings, and where it stands."""
    key = _home(cfg, str(error).rpartition("full_key: ")[2])
    overrides = [
        o for o in HydraConfig.get().overrides.task if o.lstrip("+~").startswith(f"{key}.")
    ]
    wrong_type = isinstance(error.__cause__, TypeError)
    behind = f" ({' '.join(overrides)})" if overrides and wrong_type else ""
    return f"{key}: {_text(error.__cause__ or error)}{behind}"


def _home(cfg: DictConfig, key: str) -> str:
    """The key under which a user sets what another part, such as a task, takes by reference."""
    node, home = cfg, []
    for name in key.split("."):
        if not isinstance(node, DictConfig) or name not in node:
            home.append(name)
            node = None
            continue
        inside = contents(node)[name]
        reference = OmegaConf.is_interpolation(node, name) and isinstance(inside, str)
        home = [inside.strip("${}")] if reference else [*home, name]
        node = node[name]
    return ".".join(home)


def _text(error: BaseException) -> str:
    """The first line, without those that OmegaConf and others put below it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: {error.problem or error.context}"
    return first_line(str(error)) or type(error).__name__
