import json
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from datamodules.records import KINDS
from evaluation.folder import RunFolder
from evaluation.report import page
from evaluation.report import rows as results
from evaluation.report.differences import differences
from evaluation.report.intervals import harmonic_mean, interval, resampled_means
from evaluation.report.table import beside, events, table

RUN = {"editor": "mend", "model": "m", "data": "d", "split": "test", "protocol": "single", "n": 1}
RUN |= {"step": 1, "phase": "immediate", "end": "none", "render": "text", "asked": "text"}
RUN |= {"free": "16 tokens"}
COST = {
    "device": "cpu",
    "preparation_seconds": 1.0,
    "requests": 4,
    "edits": 4,
    "at_once": 4,
    "edit_seconds": 2.0,
    "peak_gib": 1.5,
    "probes": 40,
    "probe_seconds": 4.0,
    "failures": [],
    "overruled": [],
    "overruled_requests": 0,
    "health": {},
}


def line(record, kind, exact, success=None, editor="mend", floor=0.0):
    values = dict.fromkeys(results.SCORER_NAMES)
    values |= {"exact_match": exact, "token_accuracy": exact, "probability_success": success}
    own = {"record": record, "probe": kind, "judged": None, "any_of": "", "mentions": 1}
    own |= {"all_of": "", "verdict": None, "floor": {"exact_match": floor}}
    return {**RUN, "editor": editor, **own, **values}


def found(lines, kind, scorer):
    [row] = [r for r in results.rows(lines) if (r["probe"], r["scorer"]) == (kind, scorer)]
    return row


def test_means_are_over_records_of_means_over_probes():
    lines = [line("a", "generalization", x) for x in (1.0, 1.0, 1.0)]
    lines += [line("b", "generalization", 0.0)]
    row = found(lines, "generalization", "exact_match")
    assert (row["mean"], row["count"], row["records"]) == (0.5, 4, 2)
    assert {name: row[name] for name in RUN} == RUN


def test_there_is_no_row_where_nothing_was_judged():
    names = {row["scorer"] for row in results.rows([line("a", "one_hop", 1.0)])}
    assert names == {"exact_match", "token_accuracy"}


def test_probes_that_were_not_judged_are_counted():
    lines = [line("a", "unrelated", 1.0), line("a", "one_hop", 1.0)]
    lines += [{**line("b", "unrelated", None), "judged": "disturbed"}]
    row = found(lines, "all", "disturbed")
    assert (row["mean"], row["count"], row["records"]) == (0.5, 1, 2)
    assert found(lines, "unrelated", "exact_match")["count"] == 1
    assert "1 of 2" in page.markdown(results.rows(lines))


def test_probes_that_presume_what_is_not_known_are_counted_among_all():
    lines = [line("a", "unrelated", 1.0), line("a", "one_hop", 1.0), line("b", "unrelated", None)]
    lines[2]["judged"] = "disturbed"
    lines += [{**line("b", "one_hop", None), "judged": "unknown"}]
    row = found(lines, "all", "unknown")
    assert (row["mean"], row["count"], row["records"]) == (0.25, 1, 4)
    assert found(lines, "all", "disturbed")["records"] == 2
    assert "1 of 4" in page.markdown(results.rows(lines))


def test_probes_of_one_question_count_once_and_the_best_of_them():
    lines = [line("a", "one_hop", x) for x in (0.0, 1.0, 0.0)]
    lines += [line("b", "one_hop", x) for x in (0.0, 0.0)]
    for at in (0, 1, 3, 4):
        lines[at]["any_of"] = "question"
    row = found(lines, "one_hop", "exact_match")
    assert (row["mean"], row["count"], row["records"]) == (0.25, 3, 2)


def test_a_question_none_of_whose_wordings_is_judged_is_none():
    lines = [{**line("a", "one_hop", None), "any_of": "question", "judged": "unknown"}]
    lines += [line("b", "one_hop", 1.0)]
    row = found(lines, "one_hop", "exact_match")
    assert (row["mean"], row["count"], row["records"]) == (1.0, 1, 1)


def test_what_is_shown_is_the_first_scorer_that_all_editors_have():
    rows = results.rows([line("a", "one_hop", 1.0), line("a", "one_hop", 1.0, editor="rome")])
    assert results.common_scorer(rows) == "exact_match"
    spoken = {**line("a", "one_hop", None, editor="mello"), "generation_exact_match": 1.0}
    only_text = results.rows([spoken])
    also = {**line("a", "one_hop", 1.0), "generation_exact_match": 0.0}
    rows = [*results.rows([also]), *only_text]
    assert results.common_scorer(rows) == "generation_exact_match"
    [shown] = table(rows).renderables
    assert shown.title.startswith("generation_exact_match, percent")
    assert "mello" in rendered(shown)
    assert "mello" not in rendered(table(rows, scorer="exact_match"))
    assert results.common_scorer([]) == "exact_match"


def test_a_measure_of_an_edit_that_is_no_share_is_shown_as_it_is():
    health = {"entries": {"mean": 1234.0, "low": 1234.0, "high": 1234.0, "count": 1}}
    rows = results.rows([line("a", "one_hop", 1.0)])
    rows += results.event_rows([{**cost(1), "health": health}])
    assert "1234" in rendered(events(rows))
    assert "1234 (1234 to 1234)" in page.markdown(rows)


def test_requests_whose_edit_may_not_be_what_was_meant_are_counted_and_named():
    lines = [line(f"r{i}", "reliability", float(i < 7), editor="unedited") for i in range(9)]
    lines[8]["mentions"] = 2
    lines += [line("r8", "generalization", 1.0, editor="unedited"), line("r8", "reliability", 1.0)]
    row = found(lines, "all", "already_true")
    assert (row["editor"], row["count"], row["records"]) == ("unedited", 7, 9)
    assert row["reason"] == "r0, r1, r2, r3, r4, 2 more"
    row = found(lines, "all", "subject_repeated")
    assert (row["count"], row["records"], row["reason"]) == (1, 9, "r8")
    assert "1 of 9: r8" in page.markdown(results.rows(lines))


def test_eight_of_eight_are_not_known_to_be_all():
    lines = [line(i, "one_hop", 1.0, 1.0) for i in range(8)]
    lines += [line(i, kind, 1.0, 1.0) for i in range(8) for kind in results.SCORED]
    row = found(lines, "one_hop", "exact_match")
    assert (row["mean"], row["low"], row["high"]) == (1.0, 0.675592, 1.0)
    assert (row["floor"], row["gain"], row["gain_high"]) == (0.0, 1.0, 1.0)
    assert row["gain_low"] == pytest.approx(0.5412, abs=1e-4)
    score = found(lines, "all", "harmonic_score")
    assert score["low"] < 0.8 and score["high"] == 1.0


def test_floor_and_gain_are_over_the_same_probes_of_the_unedited_model():
    lines = [line("a", "one_hop", 1.0, floor=0.0), line("a", "one_hop", 1.0, floor=1.0)]
    lines += [line("b", "one_hop", 0.0, floor=1.0)]
    row = found(lines, "one_hop", "exact_match")
    assert (row["mean"], row["floor"], row["gain"]) == (0.5, 0.75, -0.25)
    assert row["gain_low"] < -0.25 < row["gain_high"]
    assert "gain" not in found(lines, "one_hop", "token_accuracy")  # of an earlier version


def test_the_floor_of_one_question_is_its_best_wording_too():
    lines = [line("a", "one_hop", x, floor=x) for x in (0.0, 1.0)]
    for each in lines:
        each["any_of"] = "question"
    row = found(lines, "one_hop", "exact_match")
    assert (row["mean"], row["floor"], row["count"]) == (1.0, 1.0, 1)


@pytest.mark.parametrize(("said", "value"), [((1, 1, 1), 1.0), ((1, 0, 1), 0.0), ((0, 0, 0), 0.0)])
def test_probes_that_are_answered_only_together_count_once_and_the_worst(said, value):
    lines = [line("a", "yes_no", None, float(x)) for x in said]
    for each in lines:
        each["all_of"] = "pair"
    row = found(lines, "yes_no", "probability_success")
    assert (row["mean"], row["count"]) == (value, 1)


def test_texts_without_a_verdict_are_counted_with_the_reasons():
    lines = [{**line(i, "one_hop", 1.0), "verdict": ""} for i in range(3)]
    lines += [{**line(i, "one_hop", 1.0), "verdict": "unparseable"} for i in range(3, 5)]
    row = found([*lines, line(9, "one_hop", 1.0)], "all", "no_verdict")
    assert (row["count"], row["records"], row["reason"]) == (2, 5, "2 x unparseable")


def test_tables_show_the_gain_on_portability_beside_the_mean():
    lines = [
        line(str(i), kind, 1.0, editor=e, floor=0.25)
        for i in range(4)
        for kind in ("reliability", "one_hop")
        for e in ("unedited", "mend")
    ]
    rows = results.rows(lines)
    text = rendered(table(rows))
    assert "gain over unedited" in text and "+75.0" in text
    assert text.split("gain over unedited")[1].count("mend") == 1
    assert "unedited " not in text.split("points")[1]
    page_text = page.markdown(rows)
    assert "## exact_match: gain over the unedited model" in page_text and "+75.0 (" in page_text


def test_depth_stands_below_by_its_own_scorers():
    lines = [line(i, "reliability", 1.0, 1.0) for i in range(4)]
    lines += [line(i, "yes_no", None, 1.0) for i in range(4)]
    lines += [{**line(i, "leak", None), "replaces_old": 0.0} for i in range(4)]
    text = rendered(table(results.rows(lines)))
    assert "probability_success (yes_no); replaces_old (leak), percent" in text
    assert max(map(len, text.splitlines())) <= 120


def test_intervals_are_those_of_a_mean():
    values = np.random.default_rng(1).random(400)
    low, high = interval(resampled_means(values[:, None])[:, 0])
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.005)
    assert high == pytest.approx(values.mean() + half, abs=0.005)


def test_resampling_is_seeded_and_paired():
    values = np.random.default_rng(1).random((50, 2))
    first, again = resampled_means(values), resampled_means(values)
    assert (first == again).all()
    assert first.shape == (1000, 2)
    np.testing.assert_allclose(resampled_means(values[:, 1:])[:, 0], first[:, 1])


def test_harmonic_score_is_of_the_three_successes():
    means = {"reliability": 1.0, "generalization": 0.5, "neighborhood": 0.25}
    lines = [
        line(record, kind, 0.0, float(record < 8 * mean))
        for kind, mean in means.items()
        for record in range(8)
    ]
    row = found(lines, "all", "harmonic_score")
    assert row["mean"] == pytest.approx(3 / (1 + 2 + 4), abs=1e-6)
    assert row["low"] < row["mean"] < row["high"]
    assert (row["count"], row["records"]) == (24, 8)


def test_harmonic_mean_with_a_zero_is_zero():
    assert harmonic_mean([1.0, 0.0, 1.0]) == 0
    np.testing.assert_allclose(
        harmonic_mean([np.array([1.0, 0.0]), np.array([0.5, 1])]), [2 / 3, 0]
    )


EDITORS = ("unedited", "mend", "rome", "finetune_constrained", "knowledgeneurons")


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim({"editors": {editor: {} for editor in EDITORS}})
    for editor in EDITORS:
        for chunk in (1, 0):
            lines = [
                line(f"{chunk}-{record}", kind, float(record == chunk), 1.0, editor)
                for record in range(4)
                for kind in KINDS
            ]
            edits = {"edits": 0, "edit_seconds": 0.0} if editor == "unedited" else {}
            cost = COST | edits | {"run": {**RUN, "editor": editor}}
            folder.add(editor, chunk, lines, cost | {"preparation_seconds": chunk / 2})
    return folder


def test_files_hold_the_same_rows(folder):
    rows = page.write(folder)
    assert json.loads((folder.path / "results.json").read_text()) == rows
    frame = pd.read_csv(folder.path / "results.csv")
    filled = [{k: v for k, v in row.items() if v == v} for row in frame.to_dict("records")]
    assert filled == rows
    text = (folder.path / "results.md").read_text()
    for part in (
        "single edits",
        "d test",
        "8 records",
        *EDITORS,
        *results.SCORER_NAMES[:3],
        "25.0",
    ):
        assert part in text
    assert not [path for path in folder.path.iterdir() if path.name.startswith(".")]


def test_costs_are_totals_over_chunks(folder):
    page.write(folder)
    costs = {
        row["editor"]: row for row in json.loads((folder.path / "efficiency.json").read_text())
    }
    assert costs["mend"] == {
        "editor": "mend",
        "n": 1,
        "device": "cpu",
        "seconds_per_edit": 0.5,
        "edits": 8,
        "at_once": 4,
        "peak_gib": 1.5,
        "seconds_per_probe": 0.1,
        "probes": 80,
        "preparation_seconds": 0.5,
        "preparation_peak_gib": None,
        "training_seconds": None,
        "training_peak_gib": None,
        "seconds_per_edit_in_all": 0.5625,
    }
    assert costs["unedited"]["seconds_per_edit"] is None


def rendered(what, width=120) -> str:
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(what)
    return console.file.getvalue()


@pytest.mark.parametrize("scorer", ["exact_match", "probability_success"])
def test_the_table_fits_in_120_columns_and_nothing_is_cut(folder, scorer):
    rows = page.write(folder)
    costs = json.loads((folder.path / "efficiency.json").read_text())
    text = rendered(table(rows, costs, scorer))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 120
    for part in ("unedited", "mend", "rome", "reversed", "neighbor-", "0.5", "8 records", scorer):
        assert part in text


TEN = [kind for kind in KINDS if KINDS[kind].group != "depth"][:10]


@pytest.mark.parametrize(("kinds", "tables"), [(TEN, 1), (list(KINDS), 3), (["leak"], 1)])
def test_more_kinds_than_fit_beside_each_other_stand_below_each_other(kinds, tables):
    assert len(KINDS) > len(TEN) == 10
    rows = many(kinds)
    costs = [{"editor": "finetune_constrained", "n": 10, "seconds_per_edit": 0.123}]
    shown = table(rows, costs)
    text = rendered(shown)
    assert len(shown.renderables) == text.count("editor ") == tables
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 120
    headings = [column.header for grid in shown.renderables for column in grid.columns]
    assert [heading for heading in headings if heading != "editor"] == [
        *(KINDS[kind].heading for kind in kinds),
        "s per\nedit",
    ]
    assert [line.split()[0] for line in text.splitlines() if "immediate" in line] == (
        tables * ["1", "1", "10", "10", "10", "1,000", "1,000"]
    )


def test_a_group_of_kinds_stays_together():
    parts = beside(list(KINDS))
    groups = [{KINDS[kind].group for kind in part} for part in parts]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert [kind for part in parts for kind in part] == list(KINDS)
    assert all(len(part) <= 10 for part in parts)
    assert beside([*TEN[:5], "all"]) == [[*TEN[:5], "all"]]


def test_a_table_has_the_kinds_asked_and_their_colours():
    [grid] = table(many(["reliability", "one_hop", "leak", "unrelated"])).renderables
    assert [column.header for column in grid.columns[1:]] == [
        *("relia-\nbility", "one\nhop", "un-\nrelated", "leak"),
    ]
    assert [column.header_style for column in grid.columns[1:]] == [
        *("green", "magenta", "cyan", "yellow"),
    ]


def test_a_draw_takes_whole_records_also_where_some_lack_a_column():
    values = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, np.nan], [1.0, np.nan]])
    both = resampled_means(np.where(np.isnan(values), values[:, :1], values))
    means = resampled_means(values)
    np.testing.assert_allclose(means[:, 0], both[:, 0])
    drawn = ~np.isnan(means[:, 1])
    assert 0.9 < drawn.mean() < 1  # a draw of four misses both records that have the column: 1/16
    assert np.corrcoef(means[drawn].T)[0, 1] > 0.5
    assert interval(means[:, 1]) == (0.0, 1.0)


def test_the_table_shows_mean_and_interval(folder):
    rows = [{**RUN, "probe": "one_hop", "scorer": "exact_match", "mean": 0.5, "low": 0.25}]
    rows[0] |= {"high": 0.751, "count": 3, "records": 2}
    rows.append(rows[0] | {"editor": "rome", "mean": 0.0, "low": -0.1, "high": 0.1})
    text = rendered(table(rows))
    for part in ("50.0", "25-75", "0.0", "-10 to 10", "one"):
        assert part in text
    assert "per edit" not in text


def test_no_answers_yet():
    assert page.markdown([]) == "No answers yet.\n"
    with pytest.raises(ValueError, match="no row has the scorer 'x'; there are: no rows"):
        table([], scorer="x")


SEQUENCE = {"protocol": "sequential", "step": 1}


def test_in_a_sequence_what_was_asked_at_once_counts_at_each_later_checkpoint():
    lines = [
        {**line(str(at), "one_hop", float(at == 0)), **SEQUENCE, "n": n, "phase": phase}
        for phase in ("immediate", "retention")
        for at, n in ((0, 1), (1, 3), (2, 3))
    ]
    rows = [row for row in results.rows(lines) if row["scorer"] == "exact_match"]
    assert {(r["n"], r["phase"]): (r["records"], r["mean"]) for r in rows} == {
        (1, "immediate"): (1, 1.0),
        (3, "immediate"): (3, 0.333333),
        (1, "retention"): (1, 1.0),
        (3, "retention"): (2, 0.0),
    }


def cost(n, failures=(), overruled=(), **run):
    health = {"perplexity": {"mean": 2.0 * n, "low": 1.0, "high": 9.0, "count": 5}}
    return {
        **COST,
        "run": {**RUN, "n": n, **run},
        "failures": [
            {"reason": reason, "records": records, "requests": len(records)}
            for reason, records in failures
        ],
        "overruled": overruled,
        "overruled_requests": len(overruled),
        "health": health,
    }


def test_what_was_not_made_is_counted_with_the_reasons():
    rows = results.event_rows(
        [
            cost(2, [("singular", ["a", "b"])], [["c", "d"]]),
            cost(2, [("singular", ["e"]), ("x", ["f"]), ("y", ["g"]), ("z", ["h"])]),
            cost(3),
        ]
    )
    found = {(row["n"], row["scorer"]): row for row in rows}
    row = found[2, "not_made"]
    assert (row["probe"], row["count"], row["records"]) == ("all", 6, 9)
    assert row["mean"] == row["low"] == row["high"] == round(6 / 9, 6)
    assert row["reason"] == "3 x singular; 1 x x; 1 x y; 1 other reasons"
    row = found[2, "overruled"]
    assert (row["count"], row["records"], row["reason"]) == (1, 9, "c by d")
    assert found.keys() == {
        *((2, "not_made"), (2, "overruled"), (2, "perplexity"), (3, "perplexity")),
    }
    assert found[3, "perplexity"]["mean"] == 6.0


def test_what_was_not_made_adds_up_in_a_sequence():
    chunks = [cost(n, [("singular", ["a"])], **SEQUENCE) for n in (1, 5)]
    rows = [row for row in results.event_rows(chunks) if row["scorer"] == "not_made"]
    assert [(row["n"], row["count"], row["records"]) for row in rows] == [(1, 1, 4), (5, 2, 8)]


def many(kinds=TEN):
    """Rows of a sequence with everything in it."""
    sequence = {
        **RUN,
        **SEQUENCE,
        "mean": 0.5,
        "low": 0.25,
        "high": 0.751,
        "count": 3,
        "records": 2,
    }
    rows = [
        {**sequence, "editor": e, "n": n, "phase": phase, "probe": kind, "scorer": "exact_match"}
        for e in ("unedited", "finetune_constrained")
        for n in (1, 10, 1000)
        for phase in ("immediate", "retention")
        for kind in kinds
    ]
    happened = {"editor": "emmet", "n": 10, "probe": "all"}
    rows.append({**sequence, **happened, "scorer": "not_made", "reason": "3 x keys depend"})
    rows.append({**sequence, **happened, "scorer": "perplexity", "mean": 1.25})
    return rows


def test_a_table_of_several_n_has_a_line_for_each_and_fits():
    rows = many()
    costs = [{"editor": "finetune_constrained", "n": 10, "seconds_per_edit": 0.123}]
    text = rendered(table(rows, costs))
    assert max(map(len, text.splitlines())) <= 120
    assert "…" not in text
    for part in ("sequential edits, 1 at a time", "1,000", "retention", "0.12", "emmet"):
        assert part in text
    ns = [line.split()[0] for line in text.splitlines() if "immediate" in line]
    assert ns == ["1", "1", "10", "10", "10", "1,000", "1,000"]


def test_what_else_happened_is_a_table_too():
    text = rendered(events(many()))
    for part in ("perplexity", "1.25", "3 of 2", "3 x keys depend", "which and why"):
        assert part in text
    assert events([row for row in many() if row["scorer"] == "exact_match"]) is None
    assert "which and why" not in rendered(events(many()[-1:]))


def test_the_page_tells_lines_apart_and_gives_reasons():
    text = page.markdown(many())
    assert "| editor" in text and "| phase" in text and "retention" in text
    assert "3 of 2: 3 x keys depend" in text
    assert "1.25 (0.25 to 0.751)" in text


def test_editors_are_compared_record_by_record():
    def lines(editor, values):
        return [line(str(i), "one_hop", v, v, editor=editor) for i, v in enumerate(values)]

    better, worse = [1.0] * 9 + [0.0], [1.0] * 2 + [0.0] * 8
    runs = {"a": lines("a", better), "b": lines("b", worse), "c": lines("c", better[:4])}
    rows = {(row["editor"], row["against"]): row for row in differences(runs, "exact_match")}
    row = rows["a", "b"]
    assert (row["difference"], row["records"], row["probe"]) == (0.7, 10, "one_hop")
    assert 0 < row["low"] < 0.7 < row["high"] < 1
    assert rows["a", "c"]["difference"] == 0 and rows["a", "c"]["records"] == 4
    assert rows["a", "c"]["low"] < 0 < rows["a", "c"]["high"]
    assert differences({"a": runs["a"], "b": []}, "exact_match") == []
