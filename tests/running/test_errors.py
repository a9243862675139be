"""What a user can mend is one line and status 1; a bug keeps its trace."""

import errno
import os

import pytest
import yaml
from omegaconf import OmegaConf

from running import errors


def ended(monkeypatch, error):
    """What a script says that raises the error."""

    def main(cfg):
        raise error

    monkeypatch.setattr(errors, "check", lambda cfg: None)
    with pytest.raises(SystemExit) as stop:
        errors.reporting_errors(main)(OmegaConf.create())
    return stop.value.code


@pytest.mark.parametrize(
    "number",
    [errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG],
)
def test_what_the_machine_refuses_is_one_line(number, monkeypatch):
    error = OSError(number, os.strerror(number), "some/file")
    assert ended(monkeypatch, error) == f"error: some/file: {os.strerror(number)}"
    assert ended(monkeypatch, OSError(number, os.strerror(number))).endswith(os.strerror(number))


def test_a_file_that_is_no_yaml_is_one_line(monkeypatch):
    with pytest.raises(yaml.YAMLError) as raised:
        yaml.safe_load("a: [1, 2\nb: }")
    line = ended(monkeypatch, raised.value)
    assert line.startswith("error: <unicode string>, line 2: ") and "\n" not in line


@pytest.mark.parametrize("bug", [KeyError("a"), TypeError("b"), ZeroDivisionError(), IndexError()])
def test_a_bug_keeps_its_trace(bug, monkeypatch):
    def main(cfg):
        raise bug

    monkeypatch.setattr(errors, "check", lambda cfg: None)
    with pytest.raises(type(bug)):
        errors.reporting_errors(main)(OmegaConf.create())
