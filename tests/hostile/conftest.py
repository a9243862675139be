"""Each test adds a row to the table of counts that stands at the end."""

import pytest
from hostile import HEAD, Tally

TALLIES = pytest.StashKey[list]()


def pytest_configure(config):
    config.stash[TALLIES] = []


@pytest.fixture
def tally(request, tmp_path):
    """``tally("settings")``: counts for a kind of bad inputs; checked at the end of the test."""
    made = []

    def start(name):
        made.append(Tally(name, trap=tmp_path / "trap"))
        request.config.stash[TALLIES].append(made[-1])
        return made[-1]

    yield start
    for tally in made:
        tally.check()


def pytest_terminal_summary(terminalreporter, config):
    tallies = [t for t in config.stash[TALLIES] if t.cases]
    if not tallies:
        return
    total = Tally("all")
    for tally in tallies:
        total.cases += tally.cases
        total.tracebacks += tally.tracebacks
        total.accepted += tally.accepted
        total.executed += tally.executed
    terminalreporter.section("bad inputs")
    for line in (HEAD, *(tally.row for tally in [*tallies, total])):
        terminalreporter.write_line(line)
