"""No generated file is stale."""

from __future__ import annotations

import pytest
from generated import GENERATED, ROOT


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_file_is_what_the_code_says_now(name: str) -> None:
    """It is exactly what `make docs` would write."""
    assert (ROOT / name).read_text(encoding="utf-8") == GENERATED[name](), f"{name} is stale: make docs"
