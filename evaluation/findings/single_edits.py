"""Findings F1 to F8: single edits, method by method, and models of other sizes."""

from __future__ import annotations

from evaluation.findings.checks import Check, ahead, at_least, at_most, more
from evaluation.findings.evidence import Evidence

HIGH, LOW = 0.8, 0.5
"""What "high" is at least, and "low" and "weak" at most."""
NEAR = 0.02
"""By so much at most a value may be behind one that it is said to reach."""
SURVEYED = ("ft_l", "serac", "ike", "calinet", "tpatcher", "ke", "mend", "kn", "rome", "memit")
"""The methods of the survey, by their names here."""


def best(e: Evidence) -> list[Check]:
    """F1: SERAC and ROME."""
    return [
        ahead(
            f"no other method is better than {editor}",
            e.quality(editor),
            [e.quality(other) for other in SURVEYED if other not in ("serac", "rome")],
            by=-NEAR,
        )
        for editor in ("serac", "rome")
    ]


def memit(e: Evidence) -> list[Check]:
    """F2: high reliability and locality, weaker generalization."""
    reliability, general = (e.share("memit", n) for n in ("reliability", "generalization"))
    return [
        at_least("MEMIT's reliability is high", HIGH, reliability),
        at_least("its locality is high", HIGH, e.locality("memit")),
        more("its generalization is weaker than its reliability", reliability, general),
    ]


def small_only(e: Evidence) -> list[Check]:
    """F3: KE, CaliNet and KN, acceptable on small models, weak on large ones."""
    editors = [e.quality(name) for name in ("ke", "calinet", "kn")]
    small, large = "they are acceptable on small models", "they are weak on large models"
    command = "no such model among the runs: the same runs with model=gptj_6b on a GPU"
    if e.large:
        return [
            Check(small, missing="no small model among the runs"),
            at_most(large, LOW, *editors),
        ]
    return [at_least(small, LOW, *editors), Check(large, missing=command)]


def mend(e: Evidence) -> list[Check]:
    """F4: good, behind SERAC and ROME."""
    own = e.quality("mend")
    behind = [more(f"it is behind {name}", e.quality(name), own) for name in ("serac", "rome")]
    return [at_least("MEND is good", HIGH, own), *behind]


def tpatcher(e: Evidence) -> list[Check]:
    """F5: weaker generalization on encoder-decoders, weaker locality on decoder-only models."""
    encoder = "on encoder-decoders its generalization is weaker than its reliability"
    decoder = "on decoder-only models its locality is weaker than SERAC's"
    reliability, general = e.share("tpatcher", "reliability"), e.share("tpatcher", "generalization")
    if e.family in ("t5", "bart"):
        other = "no decoder-only model among these runs"
        return [more(encoder, reliability, general), Check(decoder, missing=other)]
    other = "no encoder-decoder among these runs: python train.py experiment=facts_t5 makes one"
    return [
        Check(encoder, missing=other),
        more(decoder, e.locality("serac"), e.locality("tpatcher")),
    ]


def ft_l(e: Evidence) -> list[Check]:
    """F6: low overall; on CounterFact with GPT-J as successful as ROME, at locality's cost."""
    overall = at_most("FT-L is low overall", LOW, e.quality("ft_l"))
    success = "with GPT-J on CounterFact its reliability is near ROME's"
    collapse = "and its locality collapses"
    if e.family != "gptj" or not e.data.startswith("counterfact"):
        command = "python edit.py 'editors=[ft_l,rome]' model=gptj_6b data=counterfact, on a GPU"
        return [overall, *(Check(claim, missing=command) for claim in (success, collapse))]
    reliability = [e.share(name, "reliability") for name in ("ft_l", "rome")]
    return [
        overall,
        more(success, *reliability, by=-NEAR),
        at_most(collapse, LOW, e.share("ft_l", "neighborhood")),
    ]


def ike(e: Evidence) -> list[Check]:
    """F7: reliable, the rest weaker."""
    reliability = e.share("ike", "reliability")
    return [
        at_least("IKE is reliable", HIGH, reliability),
        more("its generalization is weaker", reliability, e.share("ike", "generalization")),
        more("its locality is weaker", reliability, e.locality("ike")),
    ]


def scaling(e: Evidence) -> list[Check]:
    """F8: ROME and MEMIT work on NeoX-20B and fail on OPT-13B, MEMIT more than ROME."""
    works, fails = "ROME and MEMIT work on GPT-NeoX-20B", "they fail on OPT-13B"
    worse, context = "MEMIT more than ROME", "IKE follows the model's in-context ability"
    run = "python edit.py 'editors=[rome,memit,ike]' model={} data=counterfact, on a GPU"
    solvers = [e.quality(name) for name in ("rome", "memit")]
    neox, opt = (e.large and e.family == family for family in ("gpt_neox", "opt"))
    of_neox = run.format("gpt_neox_20b")
    of_opt = run.format("opt_13b") + "; docs/dead_neurons.md shows why, on a small model"
    return [
        at_least(works, HIGH, *solvers) if neox else Check(works, missing=of_neox),
        at_most(fails, LOW, *solvers) if opt else Check(fails, missing=of_opt),
        more(worse, *solvers) if opt else Check(worse, missing=of_opt),
        Check(context, missing="runs of ike on models of several sizes"),
    ]
