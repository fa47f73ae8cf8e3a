"""Every target on a few hundred inputs, always the same; `make fuzz` tries others."""

import pytest

from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_no_rule_is_broken(name):
    TARGETS[name].try_some(300)
