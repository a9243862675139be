"""What a run was made with, kept beside its results."""

from evaluation import circumstances


def test_model_and_machine_are_named(language_model, tmp_path):
    circumstances.write(tmp_path, model=circumstances.of_model(language_model))
    about = circumstances.read(tmp_path)
    count = sum(p.numel() for p in language_model.model.parameters())
    assert about["model"] == {
        "name": language_model.name,
        "fingerprint": language_model.fingerprint,
        "family": language_model.family.name,
        "parameters": count,
        "blocks": language_model.blocks,
        "dtype": "float32",
        "device": "cpu",
    }
    [machine] = about["machines"]
    assert machine["cores"] and machine["memory_gib"] > 0 and machine["versions"]["torch"]


def test_a_run_that_goes_on_keeps_the_machines_it_was_on(tmp_path, monkeypatch):
    circumstances.write(tmp_path, data={"name": "d"})
    circumstances.write(tmp_path, model={"name": "m"})  # the same machine, later
    monkeypatch.setattr(circumstances, "machine", lambda: {"processor": "another"})
    circumstances.write(tmp_path)
    about = circumstances.read(tmp_path)
    assert (about["data"], about["model"]) == ({"name": "d"}, {"name": "m"})
    assert len(about["machines"]) == 2 and about["machines"][1]["processor"] == "another"


def test_what_is_damaged_says_nothing(tmp_path):
    assert circumstances.read(tmp_path) == {}
    (tmp_path / circumstances.FILE).write_text("{")
    assert circumstances.read(tmp_path) == {}
    (tmp_path / circumstances.FILE).write_text("[1]")
    assert circumstances.read(tmp_path) == {}


def test_training_s_cost_is_known_where_an_editor_has_it(tmp_path):
    editors = {"mend": {"training": {"seconds": 9.0}}, "rome": {"training": None}}
    circumstances.write(tmp_path, editors=editors)
    assert circumstances.training_costs(tmp_path) == {"mend": {"seconds": 9.0}}
