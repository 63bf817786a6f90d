"""The pictures of the docs: the live page beside a real `recorder demo`, photographed in Chromium."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from browser import Tab, browsing
from commands import Running, running
from PIL import Image
from waiting import eventually_sync

IMAGES = Path(__file__).parents[1] / "docs" / "images"
HISTORY_SECS = 90
"""How long the demo runs before it is photographed, so that its plots have something to show."""
COLOURS = 128
BYTES_MAX = 200_000


def addresses(demo: Running) -> dict[str, str]:
    """Return what the demo says of where it listens, by name."""
    words = " ".join(demo.out).split()
    found = {name: url for name, url in pairwise(words) if "://" in url}
    return found if {"look", "filtered", "bars"} <= found.keys() else {}


def save(tab: Tab, name: str, height: int) -> None:
    """Save that much of the page, in few colours and hence few bytes."""
    path = IMAGES / name
    tab.photograph(path, height)
    with Image.open(path) as image:
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < BYTES_MAX


def main() -> None:
    """Take the pictures."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        demo = stack.enter_context(
            running("demo", "--dir", "data", "--free-ports", "--rate", "2000", cwd=folder)
        )
        found = eventually_sync(lambda: addresses(demo), "the demo's addresses")
        for url, topics in (
            (f"{found['filtered']}", "T.*,XT.*"),
            (f"{found['filtered']}/stocks", "T.AAPL,Q.AAPL,T.MSFT,Q.MSFT"),
            (f"{found['bars']}/stocks", "100Ms.AAPL,1000Ms.*"),
        ):
            stack.enter_context(running("tail", url, topics, "--raw", "--token", "demo", cwd=folder))
        tab = stack.enter_context(browsing(folder / "chromium"))
        tab.show_as(width=1200, height=900)
        tab.open(found["look"])

        def seen_secs() -> bool:
            caption = tab.text(".feed figcaption")
            return caption.startswith(f"{HISTORY_SECS} s") or "min" in caption

        eventually_sync(seen_secs, "a history", deadline_secs=HISTORY_SECS + 60, every_secs=1)
        save(tab, "page-light.png", 1180)
        tab.show_as(width=360, height=780, scale=2, prefers_color_scheme="dark")
        tab.wait(lambda: tab.run("document.querySelector('.feed canvas')?.clientWidth < 360"), "the phone")
        save(tab, "page-phone.png", 1010)


if __name__ == "__main__":
    main()
