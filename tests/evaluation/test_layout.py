"""TensorBoard's layout: every chart has curves, and every curve of an edit run a chart."""

import re

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from evaluation.report import layout

TAGS = ["test_immediate/reliability/rome", "test_retention/one_hop/rome"]
TAGS += ["test_immediate/reliability/ft_m", "test_immediate/perplexity/rome"]
OF_TRAINING = ["train/loss", "train/edit_loss", "train/grad_norm", "lr-Adam/pg1", "val/score"]
OF_TRAINING += ["train/update_norm/h.1", "train/edit_lr/h.1", "val/unrelated", "val/reliability"]


def charts(of):
    return {(c, name): patterns for c, part in of.items() for name, (_, patterns) in part.items()}


def matched(patterns, tags):
    return [tag for tag in tags if any(re.match(pattern, tag) for pattern in patterns)]


def test_an_edit_run_has_a_chart_for_each_phase_and_kind():
    found = {at: matched(patterns, TAGS) for at, patterns in charts(layout.editing(TAGS)).items()}
    assert found == {
        ("test immediate", "reliability"): [TAGS[0], TAGS[2]],
        ("test immediate", "perplexity"): [TAGS[3]],
        ("test retention", "one hop"): [TAGS[1]],
    }
    assert layout.editing([]) == {}


def test_each_curve_of_a_training_has_one_chart_and_each_chart_curves():
    found = [matched(patterns, OF_TRAINING) for patterns in charts(layout.TRAINING).values()]
    assert all(found)
    assert sorted(tag for tags in found for tag in tags) == sorted(OF_TRAINING)


def test_tensorboard_is_told(tmp_path):
    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    layout.write(logger, layout.TRAINING)
    layout.write(CSVLogger(str(tmp_path / "csv")), layout.TRAINING)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    [tensor] = events.Tensors("custom_scalars__config__")
    read = layout_pb2.Layout.FromString(tensor.tensor_proto.string_val[0])
    assert [chart.title for chart in read.category[0].chart] == list(layout.TRAINING["training"])
