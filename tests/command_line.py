"""What the tests of the commands share: how an error is told."""

from __future__ import annotations

import pytest

Capture = pytest.CaptureFixture[str]


def error_of(capsys: Capture) -> str:
    """The one line on the standard error; nothing may stand on the standard output."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sparselinear: error: ")
    assert err.count("\n") == 1
    return err
