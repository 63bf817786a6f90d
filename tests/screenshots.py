"""The pictures of the docs: the live page beside a real `recorder demo`, photographed in Chromium."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from browser import Tab, browsing
from commands import Running, running
from PIL import Image
from waiting import eventually_sync

IMAGES = Path(__file__).parents[1] / "docs" / "images"
HISTORY_SECS = 90
"""How long the demo runs before it is photographed, so that its plots have something to show."""
COLOURS = 128
BYTES_MAX = 200_000


class Size(NamedTuple):
    """A screen, and how much of the page its picture has."""

    width: int
    height: int
    scale: int
    pictured: int


DESKTOP = Size(1200, 900, 1, 1180)
PHONE = Size(360, 780, 2, 1560)


def addresses(demo: Running) -> dict[str, str]:
    """Return what the demo says of where it listens, by name."""
    words = " ".join(demo.out).split()
    found = {name: url for name, url in pairwise(words) if "://" in url}
    return found if {"look", "filtered", "bars"} <= found.keys() else {}


def is_drawn_for(tab: Tab, width: int) -> bool:
    """Return whether the plots have the width that a screen of this one gives them."""
    drawn = tab.run("document.querySelector('.feed canvas')?.getBoundingClientRect().width")
    room = tab.run("document.querySelector('.feed .canvas').clientWidth")
    return tab.run("innerWidth") == width and drawn is not None and abs(drawn - room) <= 1


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
        tab.show_as(width=DESKTOP.width, height=DESKTOP.height)
        tab.open(found["look"])

        def seen_secs() -> bool:
            caption = tab.text(".feed figcaption")
            return caption.startswith(f"{HISTORY_SECS} s") or "min" in caption

        eventually_sync(seen_secs, "a history", deadline_secs=HISTORY_SECS + 60, every_secs=1)
        tab.wait(lambda: len(tab.texts("#symbols tbody tr")) > 20, "the symbols")
        for name, size, scheme in (
            ("page-light.png", DESKTOP, "light"),
            ("page-dark.png", DESKTOP, "dark"),
            ("page-phone-light.png", PHONE, "light"),
            ("page-phone.png", PHONE, "dark"),
        ):
            tab.show_as(width=size.width, height=size.height, scale=size.scale, prefers_color_scheme=scheme)
            tab.wait(lambda size=size: is_drawn_for(tab, size.width), "plots of that width")
            save(tab, name, size.pictured)


if __name__ == "__main__":
    main()
