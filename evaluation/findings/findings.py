"""The findings of the survey, judged by runs, as rows, a table and a page.

Yao et al., "Editing Large Language Models", EMNLP 2023, https://arxiv.org/abs/2305.13172.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from rich import box
from rich.table import Table

from evaluation.findings import applications, single_edits
from evaluation.findings.checks import Check, verdict_of
from evaluation.findings.evidence import Evidence
from evaluation.findings.single_edits import HIGH, LOW

Profiles = Mapping[str, Mapping[str, float]]
Judge = Callable[[Evidence], list[Check]]


@dataclass(frozen=True)
class Finding:
    """A finding of the survey, and what some runs say of it.

    Attributes:
        id: F1 to F15.
        claim: the finding in words.
        evidence: model and data.
        checks: its claims, with numbers.
    """

    id: str
    claim: str
    evidence: str
    checks: list[Check]

    @property
    def verdict(self) -> str:
        """One of `checks.VERDICTS`."""
        return verdict_of(self.checks)

    def row(self) -> dict[str, object]:
        """The same as JSON values."""
        checks = [{**asdict(check), "verdict": check.verdict} for check in self.checks]
        return {**asdict(self), "verdict": self.verdict, "checks": checks}


def judged(evidence: Evidence, profiles: Profiles) -> list[Finding]:
    """All findings, by the runs of one model and data set."""
    return [
        Finding(f"F{number}", claim, evidence.name, judge(evidence))
        for number, (claim, judge) in enumerate(claims(profiles), 1)
    ]


def claims(profiles: Profiles) -> list[tuple[str, Judge]]:
    """F1 to F15: what the survey says, and what judges it."""
    return [
        ("SERAC and ROME are best at single edits.", single_edits.best),
        ("MEMIT is reliable and local, and generalizes less.", single_edits.memit),
        ("KE, CaliNet and KN do on small models, not on large ones.", single_edits.small_only),
        ("MEND is good, behind SERAC and ROME.", single_edits.mend),
        (
            "T-Patcher generalizes less on encoder-decoders, is less local on decoder-only models.",
            single_edits.tpatcher,
        ),
        (
            "FT-L is low overall; with GPT-J on CounterFact it is as reliable as ROME, not local.",
            single_edits.ft_l,
        ),
        ("IKE is reliable, the rest of it weaker.", single_edits.ike),
        ("ROME and MEMIT work on GPT-NeoX-20B and fail on OPT-13B.", single_edits.scaling),
        ("In batches MEMIT and SERAC hold, MEND and FT-L do not.", applications.batch),
        (
            "In a sequence frozen models are stable; ROME falls, MEND sooner, MEMIT later.",
            applications.sequence,
        ),
        ("Portability is weak; IKE is best at it, SERAC drops most.", applications.portability),
        (
            "Other relations stay; distracting neighbours are lost but by IKE; other tasks stay "
            "where the model is frozen.",
            applications.locality,
        ),
        ("KE and MEND edit fastest, once they are trained.", applications.seconds),
        ("Memory is much the same, but for MEND's training.", applications.memory),
        (
            "Which method is best depends on what the application weighs.",
            partial(applications.choice, profiles=profiles),
        ),
    ]


# what it looks like


def table(findings: Sequence[Finding]) -> Table:
    """Findings by model: the verdict of each, for the terminal."""
    bodies = list(dict.fromkeys(finding.evidence for finding in findings))
    grid = Table(box=box.SIMPLE_HEAD, title="findings of the survey", title_justify="left")
    grid.add_column("")
    grid.add_column("finding", overflow="fold")
    for body in bodies:
        grid.add_column(body)
    cells = {(finding.id, finding.evidence): finding for finding in findings}
    for first in (finding for finding in findings if finding.evidence == bodies[0]):
        verdicts = [cells[first.id, body].verdict for body in bodies]
        grid.add_row(first.id, first.claim, *verdicts)
    return grid


def markdown(
    findings: Sequence[Finding], command: str, runs: Sequence[str], missing: Sequence[str] = ()
) -> str:
    """A page: the verdicts, then for each finding its claims with their numbers."""
    parts = [
        "# The findings of the survey",
        f"Written by `{command}`. Yao et al. (EMNLP 2023) found F1 to F15 on models of billions of "
        "parameters; here they are hypotheses, judged by the runs below, and a verdict is about "
        f"their model and data only. High is {HIGH:.0%} at least, low and weak {LOW:.0%} at most. "
        "Shares are means in percent with 95 % intervals over records; costs were measured once. "
        "A claim holds, or does not, where the intervals say so; a finding is shown if all of its "
        "claims are, refuted if one is.",
        "Runs: " + ", ".join(f"`{run}`" for run in runs) + ".",
    ]
    for body in dict.fromkeys(finding.evidence for finding in findings):
        own = [finding for finding in findings if finding.evidence == body]
        lines = [f"| {f.id} | {_cell(f.claim)} | {f.verdict} |" for f in own]
        parts += [f"## {body}", "\n".join(["| | finding | verdict |", "|---|---|---|", *lines])]
        for finding in own:
            parts += [f"### {finding.id}: {finding.verdict}", finding.claim, _claims(finding)]
    if missing:
        lines = "\n".join(missing)
        parts += ["## What would measure more", f"```bash\n{lines}\n```"]
    return "\n\n".join(parts) + "\n"


def _claims(finding: Finding) -> str:
    lines = ["| claim | measured | verdict |", "|---|---|---|"]
    for check in finding.checks:
        lines.append(
            f"| {_cell(check.claim)} | {_cell(check.numbers or check.missing)} | {check.verdict} |"
        )
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
