"""Without a terminal long work writes a line every 30 seconds; what is short writes nothing."""

import logging

import pytest

from watching import EVERY, Watch, watched


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves."""

    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(Watch, "clock", clock)
    return clock


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "watching")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "watching"]


def test_a_line_says_how_far_how_fast_and_how_long(clock, lines):
    with Watch("rome", 300, "facts") as watch:
        for _ in range(4):
            clock.now += 10
            watch.advance(20, loss=0.5)
    assert lines() == ["rome: 60 of 300 facts, 2 a second, 2:00 left, loss 0.5"]


def test_short_work_says_nothing(clock, lines):
    with Watch("rome", 300, "facts") as watch:
        clock.now += EVERY - 1
        watch.advance(300)
    assert lines() == []


def test_the_innermost_work_speaks_for_all_around_it(clock, lines):
    with Watch("benchmark", 8, "edits") as outer:
        outer.advance(2)
        for _ in watched(range(3), "descent"):
            clock.now += 20
        clock.now += 10
        outer.advance(1)
    assert lines() == [
        "benchmark: 2 of 8 edits, 20 seconds each, 2:00 left · "
        "descent: 2 of 3 steps, 20 seconds each, 0:20 left",
        "benchmark: 3 of 8 edits, 23.3 seconds each, 1:57 left",
    ]


def test_what_was_done_before_does_not_count_as_speed(clock, lines):
    with Watch("second moments", 1_000_000, "tokens", done=900_000) as watch:
        clock.now += 40
        watch.advance(50_000)
    assert lines() == ["second moments: 950,000 of 1,000,000 tokens, 1.25e+03 a second, 0:40 left"]


def test_work_of_unknown_length_has_no_end(clock, lines):
    with Watch("training") as watch:
        clock.now += 31
        watch.advance(62)
    assert lines() == ["training: 62 steps, 2 a second"]


def test_work_that_fails_is_not_watched_any_more(clock, lines):
    with pytest.raises(ValueError, match="broken"), Watch("outer", 2):
        for _ in watched(range(2), "inner"):
            raise ValueError("broken")
    with Watch("next", 2) as watch:
        clock.now += 31
        watch.advance()
    assert lines() == ["next: 1 of 2 steps, 31 seconds each, 0:31 left"]


def test_only_the_first_process_speaks(clock, lines, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with Watch("training", 2) as watch:
        clock.now += 31
        watch.advance()
    assert lines() == []


def test_a_terminal_has_a_bar_instead(clock, lines, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("watching.SHORT", 0)
    with Watch("rome", 3, "facts") as watch:
        clock.now += 31
        watch.advance(2)
        watch.bar.refresh()
    assert "rome:  67%" in capsys.readouterr().err
    assert lines() == []
