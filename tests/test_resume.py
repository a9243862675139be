"""A run that was interrupted goes on as if it had never stopped: to the bit, logs included."""

import pytest
import torch
import yaml
from scripts import ROOT, call, script  # noqa: F401
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = pytest.mark.filterwarnings("ignore:You have overridden `transfer_batch_to_device`")

SHORT = (
    "trainer.max_steps=-1",
    "+trainer.max_epochs=2",
    "+trainer.limit_train_batches=7",
    "+trainer.accumulate_grad_batches=2",
    "trainer.val_check_interval=4",
    "trainer.limit_val_batches=1",
    "trainer.log_every_n_steps=1",
    "+trainer.num_sanity_val_steps=0",
    "+trainer.enable_progress_bar=false",
    "+trainer.enable_model_summary=false",
    "callbacks.last.every_n_steps=1",
    "+data.variants=1",
    "data.batch_size=2",
)
EDITORS = {
    "mend": ("editor=mend", "editor.rank=4", "editor.statistics=online", "editor.decay=0.5"),
    "ke": ("editor=ke", "+editor.lstm_width=4", "+editor.condition_width=4", "editor.warmup=3"),
}


def state(folder):
    """What the last checkpoint of a run holds that a resumed run must hold as well."""
    held = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    best = next(v for k, v in held["callbacks"].items() if k.startswith("ModelCheckpoint"))
    stop = next(v for k, v in held["callbacks"].items() if k.startswith("Patience"))
    return {
        **{name: held[name] for name in ("epoch", "global_step", "state_dict", "loops")},
        "optimizer": held["optimizer_states"],
        "rates": held["lr_schedulers"],
        "best": (best["best_model_score"], best["current_score"]),
        "stop": stop,
    }


def assert_same(ours, theirs, at="state"):
    """Equal to the bit, whatever the nesting."""
    assert type(ours) is type(theirs), at
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), at
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), at
        for key, value in ours.items():
            assert_same(value, theirs[key], f"{at}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), at
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same(*pair, f"{at}[{number}]")
    else:
        assert ours == theirs, at


def logged(folder):
    """Every number and text in TensorBoard's files but those that measure time."""
    events = EventAccumulator(str(folder))
    events.Reload()
    scalars = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag != "train/edits_per_second"
    }
    texts = {
        tag: [(event.step, event.tensor_proto.string_val[0]) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
        if "text_summary" in tag
    }
    return scalars | texts


def train(folder, *arguments):
    return call("train", *arguments, f"hydra.run.dir={folder}")


@pytest.fixture(scope="module", params=EDITORS)
def straight(request, tmp_path_factory):
    """The settings of a run and the folder of one that was never stopped."""
    settings = (*EDITORS[request.param], *SHORT)
    folder = tmp_path_factory.mktemp(request.param) / "straight"
    assert train(folder, *settings) == 0
    return settings, folder


@pytest.mark.parametrize("at", [3, 10])
def test_an_interruption_inside_an_epoch_changes_nothing(at, straight, tmp_path):
    settings, whole = straight
    broken = [
        "+callbacks.broken._target_=interruptions.Interruption",
        f"+callbacks.broken.at={at}",
    ]
    folder = tmp_path / "run"
    assert train(folder, *settings, *broken) == 1
    held = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert held["global_step"] == {3: 1, 10: 5}[at]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["callbacks"]["broken"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert train(tmp_path / "more", f"resume={folder}") == 0
    assert_same(state(folder), state(whole))
    assert_same(logged(folder), logged(whole))
    for name in ("results.json", "results.md"):
        assert (folder / name).read_text() == (whole / name).read_text()
