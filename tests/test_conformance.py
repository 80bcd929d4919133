"""Every registered method on every model family: registering is testing."""

import pytest

from steadyclip.methods import get_method, methods
from steadyclip.models.testing import installed_families, tiny
from steadyclip.testing import CHECKS


@pytest.mark.one_of_each("family")
@pytest.mark.parametrize("family", installed_families())
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", methods())
def test_method(name: str, check: str, family: str) -> None:
    CHECKS[check](get_method(name), tiny(family))
