"""Bad inputs by the thousand: what each of them does, counted."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hydra.errors import HydraException, InstantiationException

from running.errors import MENDABLE

SHOWN = 200
NOTHING = object()


@dataclass
class Tally:
    """What bad inputs of one kind did; all but the cases have to be none."""

    name: str
    cases: int = 0
    tracebacks: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)
    trap: Path | None = None

    def case(self, what: str, run: Callable[[], object], right: object = NOTHING) -> None:
        """One bad input: ``run`` has to refuse it in a line, or to give what is ``right``."""
        self.cases += 1
        try:
            result = run()
        except (HydraException, *MENDABLE) as error:
            bug = isinstance(error, InstantiationException) and not isinstance(
                error.__cause__, (*MENDABLE, TypeError)
            )
            if bug or not str(error):
                self.tracebacks.append(f"{what}: {error.__cause__!r}"[:300])
        except Exception as error:
            self.tracebacks.append(f"{what}: {type(error).__name__}: {error}"[:300])
        else:
            if right is NOTHING or result != right:
                self.accepted.append(what[:300])
        if self.trap is not None and self.trap.exists():
            self.executed.append(what[:300])
            self.trap.unlink()

    def damage(self, what: str, run: Callable[[], object]) -> None:
        """One changed text, which may also say something else that is right."""
        accepted = len(self.accepted)
        self.case(what, run)
        del self.accepted[accepted:]

    @property
    def row(self) -> str:
        bad = (self.tracebacks, self.accepted, self.executed)
        return f"{self.name:<34}{self.cases:>8,}" + "".join(f"{len(part):>12}" for part in bad)

    def check(self) -> None:
        """Fails with the first bad ones of each sort."""
        parts = {name: getattr(self, name) for name in ("tracebacks", "accepted", "executed")}
        lines = [f"{name}: {line}" for name, bad in parts.items() for line in bad[:SHOWN]]
        assert not lines, "\n".join(lines)


HEAD = f"{'':<34}{'cases':>8}" + "".join(f"{n:>12}" for n in ("tracebacks", "accepted", "executed"))


def some(items: list, share: float, seed: int = 0) -> list:
    """A share of them, drawn, in their order."""
    count = round(len(items) * share)
    return [items[at] for at in sorted(random.Random(seed).sample(range(len(items)), count))]
