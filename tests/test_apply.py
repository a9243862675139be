"""``task=apply`` and what is done with the edits that it leaves behind."""

import csv
import json

import pytest
from scripts import call, script  # noqa: F401

from edits import storage

QUICK = ("+settings.ft_m.steps=25", "bystanders.limit=5")
FACTS = """prompt,subject,target_new,rephrase_prompt
Gothenburg is a city in,Gothenburg,Norway,The country of Gothenburg is
Lagos is a city in,Lagos,Sweden,
The capital of Japan is,Japan,Paris,
"""
APPLY = ("task=apply", "editors=[ft_m]", *QUICK)


@pytest.fixture(scope="module")
def applied(tmp_path_factory):
    """The folder of a run that made the facts one after another."""
    folder = tmp_path_factory.mktemp("apply")
    (folder / "facts.csv").write_text(FACTS)
    arguments = [f"requests={folder}/facts.csv", "apply.step=1", f"hydra.run.dir={folder}/run"]
    assert call("edit", *APPLY, *arguments) == 0
    return folder / "run"


def test_each_fact_is_checked_and_the_edit_kept(applied):
    rows = list(csv.DictReader((applied / "check.csv").read_text().splitlines()))
    prompts = [line.split(",")[0] for line in FACTS.splitlines()[1:]]
    assert [row["prompt"] for row in rows] == prompts
    assert rows[-1]["right"] == "True" and rows[-1]["now"].startswith("Paris")
    assert rows[0]["before"].startswith("Sweden") and rows[0]["paraphrases"] == "1"
    found = json.loads((applied / "check.json").read_text())
    assert len(found["bystanders"]) == 5 and len(found["perplexity"]) == 2
    owner, history = storage.about(applied / "edit.safetensors")
    assert owner.base == "atlas" and [making.editor for making in history] == ["ft_m"] * 3
    assert history[0].settings["steps"] == 25


def test_facts_are_made_at_once_merged_and_exported(script, tmp_path):  # noqa: F811
    (tmp_path / "facts.jsonl").write_text(
        '{"prompt": "Lagos is a city in", "subject": "Lagos", "target_new": "Sweden"}\n{"a": 1}\n'
    )
    run = script("edit", *APPLY, "requests=facts.jsonl", "apply.save=e.safetensors",
                 "apply.merge=merged", "apply.export=adapter", "apply.rank=4",
                 f"hydra.run.dir={tmp_path}/run")  # fmt: skip
    assert run.code == 0, run.err
    assert "facts.jsonl: 1 of 2 facts; left out 1:" in run.out
    assert "facts said now            1 of 1" in run.out
    assert storage.about(tmp_path / "e.safetensors")[1][0].requests[0].target == "Sweden"
    assert (tmp_path / "merged/README.md").is_file()
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["r"] == 4


def test_a_missing_subject_is_noted_or_refused(script, tmp_path):  # noqa: F811
    (tmp_path / "facts.csv").write_text("prompt,target_new\nThe capital of Japan is,Paris\n")
    run = script("edit", *APPLY, "requests=facts.csv", f"hydra.run.dir={tmp_path}/run")
    assert "missing, guessed from the prompt: 1 x, such as [0].subject" in run.out
    run = script("edit", "task=apply", "editors=[rome]", "requests=facts.csv")
    assert (
        "facts.csv: 1 fact without a subject, such as [0]" in run.error
        and "rome changes the model where it" in run.error
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "requests is missing: name a file of facts"),
        (["requests=gone.csv"], "no file 'gone.csv'"),
        (["requests=facts.csv", "editors=[ft_m,rome]"], "task=apply takes one, as in [locft]"),
        (["requests=facts.csv", "apply.merge=."], "merge=. holds something; name another folder"),
        (["requests=facts.csv", "apply.step=0"], "step must be at least 1"),
    ],
)
def test_what_cannot_be_applied_is_refused(script, tmp_path, arguments, message):  # noqa: F811
    (tmp_path / "facts.csv").write_text(FACTS)
    run = script("edit", "task=apply", *arguments, f"hydra.run.dir={tmp_path}/run")
    assert message in run.error


# edits that are held


def test_show_says_what_an_edit_is(applied, script):  # noqa: F811
    run = script("edit", "task=show", f"edit={applied}/edit.safetensors")
    assert run.code == 0, run.err
    for part in ("ft_m", "atlas (", "3 facts by ft_m", "steps: 25", "norm", "Lagos", "Norway"):
        assert part in run.out


def test_undo_takes_the_last_facts_out(applied, script, tmp_path):  # noqa: F811
    (tmp_path / "gone.json").write_text(
        '[{"prompt": "The capital of Japan is", "subject": "Japan", "target_new": "Paris"}]'
    )
    undo = ("task=undo", f"edit={applied}/edit.safetensors", "bystanders.limit=5")
    run = script("edit", *undo, "undo.requests=gone.json", "undo.save=rest.safetensors")
    assert run.code == 0, run.err
    assert len(storage.about(tmp_path / "rest.safetensors")[1]) == 2
    assert "Tokyo" in run.out
    run = script("edit", *undo, "undo.prompts=[Lagos is a city in]")
    assert "facts behind 'Lagos is a city in' were made on top of it" in run.error
    assert "undo.prompts is empty" in script("edit", *undo).error


def test_stack_and_ask(applied, script, tmp_path):  # noqa: F811
    first = f"{applied}/edit.safetensors"
    run = script("edit", "task=stack", f"edits=[{first},{first}]", "stack.save=both.safetensors",
                 "bystanders.limit=5")  # fmt: skip
    assert run.code == 0, run.err
    assert len(storage.about(tmp_path / "both.safetensors")[1]) == 6
    (tmp_path / "questions.txt").write_text("Lagos is a city in\n\nKano is a city in\n")
    run = script("edit", "task=ask", f"edit={first}", "ask.file=questions.txt")
    assert run.code == 0, run.err
    assert "Kano is a city in" in run.out
    assert "ask.prompts is empty" in script("edit", "task=ask").error
    assert "expected two files or more" in script("edit", "task=stack", f"edits=[{first}]").error
    assert "edit=gone: there is no such file" in script("edit", "task=show", "edit=gone").error


# sweeps


def test_a_sweep_lies_below_runs(script, tmp_path):  # noqa: F811
    run = script("edit", "-m", "editors=[ft_m]", "data.limit=2", "++data.variants=1",
                 "+settings.ft_m.steps=1,2", "protocol.generate=[]")  # fmt: skip
    assert run.code == 0, run.err
    [folder] = (tmp_path / "runs/edit/sweep").iterdir()
    for number in "01":
        assert (folder / number / "results.json").is_file()
