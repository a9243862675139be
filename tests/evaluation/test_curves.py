"""Curves show what the rows say."""

import pytest

from evaluation.report import curves

RUN = {"model": "m", "data": "d", "split": "val", "protocol": "sequential", "step": 1}
RUN |= {"end": "none", "render": "text", "asked": "text"}
EDITORS = ("unedited", "rome", "memit")


def row(editor, n, phase, probe="reliability", scorer="exact_match", mean=0.5):
    bounds = {"mean": mean, "low": mean / 2, "high": mean * 1.5, "count": n, "records": n}
    return {
        **RUN,
        "editor": editor,
        "n": n,
        "phase": phase,
        "probe": probe,
        "scorer": scorer,
    } | bounds


ROWS = [
    *(row("unedited", n, "immediate", mean=0.0) for n in (1, 10, 100)),
    *(
        row("rome", n, phase, mean=0.6)
        for n in (1, 10, 100)
        for phase in ("immediate", "retention")
    ),
    *(row("memit", n, "immediate", mean=1 / n) for n in (1, 10, 100)),
    *(row("rome", n, "immediate", "all", "perplexity", 10.0 * n) for n in (1, 10, 100)),
    row("rome", 100, "immediate", "all", "not_made", 0.1),
]


def lines(axes):
    return [line for line in axes.get_lines() if len(line.get_xdata())]


def test_a_panel_has_a_line_for_each_editor_and_phase():
    reliability, perplexity = curves.figure(ROWS).axes
    assert (reliability.get_title(), perplexity.get_title()) == ("reliability", "perplexity")
    found = {line.get_label(): line for line in lines(reliability)}
    assert found.keys() == {"unedited", "rome", "rome, right after its edit", "memit"}
    assert found["memit"].get_xdata().tolist() == [1, 10, 100]
    assert found["memit"].get_ydata().tolist() == pytest.approx([100, 10, 1])
    assert found["rome"].get_linestyle() == "-"
    assert found["rome, right after its edit"].get_linestyle() == "--"
    [line] = lines(perplexity)
    assert line.get_ydata().tolist() == [10, 100, 1000]
    assert perplexity.get_yscale() == "log"


def test_a_figure_is_written_where_there_is_a_curve(tmp_path):
    curves.write([r for r in ROWS if r["n"] == 1], tmp_path / "none.png")
    assert list(tmp_path.iterdir()) == []
    curves.write(ROWS, tmp_path / "curves.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_scalars_are_by_n():
    found = curves.scalars(ROWS, "val")
    assert list(found) == [1, 10, 100]
    assert found[10] == {
        "val_immediate/reliability/unedited": 0.0,
        "val_immediate/reliability/rome": 0.6,
        "val_retention/reliability/rome": 0.6,
        "val_immediate/reliability/memit": 0.1,
        "val_immediate/perplexity/rome": 100.0,
    }
    assert curves.scalars([r for r in ROWS if r["n"] == 1], "val") == {}


def test_the_last_word_is_that_of_the_largest_n():
    rows = [*ROWS, row("rome", 100, "retention", mean=0.2)]
    assert curves.final(rows, "val") == {
        "val/unedited/reliability": 0.0,
        "val/rome/reliability": 0.2,
        "val/memit/reliability": 0.01,
    }
