"""Which windows bars are made with: compiled ones where they fit the sources and native code is in use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from bar_feeds import T0, Feed, Sent

from recorder import native
from recorder.bars import kinds as kinds_module
from recorder.bars.kinds import PYTHON, are_compiled, compiled, kinds


@pytest.fixture
def _found_anew() -> Iterator[None]:
    compiled.cache_clear()
    yield
    compiled.cache_clear()


def in_use(monkeypatch: pytest.MonkeyPatch, is_used: bool) -> None:
    monkeypatch.setattr(native, "in_use", lambda: is_used)


def test_python_makes_bars_where_native_code_is_not_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """`RECORDER_NATIVE=no` holds for the windows, too."""
    in_use(monkeypatch, False)
    assert kinds() is PYTHON
    assert not are_compiled()


def test_compiled_windows_make_bars_where_they_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """All objects of a maker are compiled ones, or all are Python's: they do not mix."""
    found = compiled()
    if found is None:
        pytest.skip("the windows were not compiled")
    in_use(monkeypatch, True)
    assert kinds() == found
    assert are_compiled()
    feed = Feed((100, "AAPL"), amend_ms=1000)
    feed.send(Sent(T0 + 150), Sent(T0 + 500, "CLOCK"), Sent(T0 + 160), Sent(T0 + 250))
    assert [(bar["s"] - T0, bar["n"]) for bar in feed.values] == [(100, 1), (100, 2), (200, 1)]
    assert type(feed.maker._windows) is found.windows


@pytest.mark.usefixtures("_found_anew")
@pytest.mark.parametrize("source", ["of another day", None])
def test_what_was_compiled_of_other_sources_is_not_used(
    monkeypatch: pytest.MonkeyPatch, source: str | None
) -> None:
    """An editable install keeps what was built before windows.py was changed; and there may be none."""
    module = SimpleNamespace(SOURCE=source) if source else None
    monkeypatch.setitem(sys.modules, kinds_module._NAME, module)  # type: ignore[arg-type]
    in_use(monkeypatch, True)
    assert kinds() is PYTHON
