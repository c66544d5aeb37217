"""What a test needs and a machine may lack."""

import os
from typing import NoReturn

import pytest


def lacking(reason: str, *, ci_has_it: bool = True) -> NoReturn:
    """Skip the test and say why; with CI=true it fails, unless CI need not have it."""
    if ci_has_it and os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
