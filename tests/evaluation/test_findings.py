"""Findings: what numbers support, what they leave open, and what is not there."""

import json

import pytest
from rich.console import Console
from stored_runs import line, stored

from evaluation.findings.checks import (
    NOT_MEASURABLE,
    REFUTED,
    SHOWN,
    UNDECIDED,
    Check,
    Named,
    ahead,
    at_least,
    at_most,
    at_most_times,
    more,
    times,
    verdict_of,
)
from evaluation.findings.evidence import bodies
from evaluation.findings.findings import claims, judged
from evaluation.report.scorecard import Value
from evaluation.report.stored import runs_in
from evaluation.tasks.findings import Findings

PROFILES = {"right": {"reliability": 1.0}, "kept": {"unrelated": 1.0}}


def named(mean, half=0.02, name="x"):
    return Named(name, Value(mean, mean - half, mean + half), editor=name)


GONE = Named("y", None, "no single run of", "y")
WIDE = named(0.5, 0.4)


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (at_least("", 0.8, named(0.9)), SHOWN),
        (at_least("", 0.8, named(0.9), named(0.7)), REFUTED),
        (at_least("", 0.8, WIDE), UNDECIDED),
        (at_least("", 0.8, named(0.9), GONE), UNDECIDED),
        (at_least("", 0.8, GONE), NOT_MEASURABLE),
        (at_most("", 0.5, named(0.1)), SHOWN),
        (at_most("", 0.5, named(0.9), GONE), REFUTED),
        (more("", named(0.9), named(0.5)), SHOWN),
        (more("", named(0.9), named(0.89)), UNDECIDED),
        (more("", named(0.5), named(0.9)), REFUTED),
        (more("", named(0.88, 0), named(0.9, 0), by=-0.05), SHOWN),
        (more("", named(0.5), GONE), NOT_MEASURABLE),
        (ahead("", named(0.9), [named(0.5), named(0.6)]), SHOWN),
        (ahead("", named(0.9), [named(0.5), named(0.95, 0)]), REFUTED),
        (ahead("", named(0.9), [named(0.5), GONE]), UNDECIDED),
        (ahead("", GONE, [named(0.5)]), NOT_MEASURABLE),
        (ahead("", named(0.5), [GONE]), NOT_MEASURABLE),
        (times("", named(3.0), named(1.0), factor=2.0), SHOWN),
        (times("", named(1.5), named(1.0), factor=2.0), REFUTED),
        (at_most_times("", named(1.5), named(1.0), factor=2.0), SHOWN),
    ],
)
def test_a_claim_holds_where_the_intervals_say_so(check, verdict):
    assert check.verdict == verdict


def test_what_is_missing_is_named_with_all_it_is_missing_of():
    gone = [
        GONE,
        Named("z", None, "no single run of", "z"),
        Named("z", None, "no batch run of", "z"),
    ]
    assert at_least("", 0.8, *gone).missing == "no single run of y, z; no batch run of z"
    assert at_least("", 0.8, named(0.9), GONE).numbers == "x 90.0 (88 to 92) (not measured: y)"


def test_a_finding_is_refuted_by_one_claim_and_shown_by_all():
    shown, refuted, open_ = (Check("", "1", holds) for holds in (True, False, None))
    missing = Check("", missing="a run")
    assert verdict_of([shown, shown]) == SHOWN
    assert verdict_of([shown, open_]) == UNDECIDED
    assert verdict_of([shown, missing]) == UNDECIDED
    assert verdict_of([missing, missing]) == NOT_MEASURABLE
    assert verdict_of([shown, missing, refuted]) == REFUTED


def single(editor, **means):
    """Answers of sixty records to probes of some kinds."""
    return [
        line(editor, f"r{at}", kind, float(at < round(60 * mean)))
        for kind, mean in means.items()
        for at in range(60)
    ]


@pytest.fixture
def run(tmp_path):
    """The folder of a study: memit and mend alone, and in sequences."""
    lines = single("unedited", reliability=0.0)
    lines += single("memit", reliability=1.0, generalization=0.1, unrelated=1.0)
    lines += single("mend", reliability=0.2, generalization=0.1, unrelated=1.0)
    stored(tmp_path / "study/single", lines)
    places = [("mend", 10, 1.0), ("mend", 50, 0.0), ("memit", 10, 1.0), ("memit", 50, 1.0)]
    lines = [
        line(editor, f"r{at}", value=value, protocol="sequential", n=n, phase="retention")
        for editor, n, value in places
        for at in range(n)
    ]
    stored(tmp_path / "study/sequential", lines)
    return tmp_path / "study"


def test_all_fifteen_have_a_verdict(run):
    [body] = bodies(runs_in([run]))
    found = {finding.id: finding for finding in judged(body, PROFILES)}
    assert list(found) == [f"F{number}" for number in range(1, 16)] and len(claims({})) == 15
    assert found["F2"].verdict == SHOWN
    assert found["F4"].verdict == REFUTED  # MEND is not good
    verdicts = {check.claim: check.verdict for check in found["F10"].checks}
    assert verdicts["MEND falls within 10 edits or more"] == SHOWN
    assert verdicts["MEMIT holds longer than ROME"] == NOT_MEASURABLE
    assert found["F8"].verdict == NOT_MEASURABLE
    for finding in found.values():
        assert all(check.numbers or check.missing for check in finding.checks)


def test_the_task_writes_numbers_and_what_would_measure_more(run, tmp_path):
    task = Findings(runs=[str(run)], profiles=PROFILES, page=str(tmp_path / "docs.md"))
    with (tmp_path / "out").open("w") as file:
        task.run(tmp_path / "findings", Console(file=file, width=120))
    text = (tmp_path / "docs.md").read_text()
    assert text == (tmp_path / "findings/findings.md").read_text()
    assert "memit reliability 100.0 (" in text
    assert "'editors=[ft_l,serac,ike,calinet,tpatcher,ke,kn,rome]' protocol=single" in text
    rows = json.loads((tmp_path / "findings/findings.json").read_text())
    assert [row["id"] for row in rows] == [f"F{number}" for number in range(1, 16)]
    assert rows[1]["verdict"] == SHOWN and rows[1]["checks"][0]["numbers"]
    assert SHOWN in (tmp_path / "out").read_text()


def test_a_page_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"page=docs: expected a file that ends with \.md"):
        Findings(runs=["a"], profiles=PROFILES, page="docs")
