"""The live page in a real browser: what it shows is what the recorder says, whoever looks and whatever is said."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from archives import Archive, archive_settings
from browser import Tab, browsing
from commands import KEY, Running, live_settings, running, simulating
from ops_parts import feed_of, make_ready
from waiting import eventually_sync
from websockets.sync.client import connect

from recorder.archive.stats import ActiveSegment, ArchiveStats, ClosedSegment
from recorder.bus import Bus
from recorder.clock import SystemClock
from recorder.ledger import Ledger
from recorder.ops.observed import Observed
from recorder.ops.server import OpsServer
from recorder.ops.status_schema import CLIENTS_LISTED_MAX
from recorder.part import PartStats
from recorder.servers.stats import ClientStats, ServerStats
from recorder.settings.sections import OpsSettings
from recorder.sources.stats import Gap
from recorder.stats import RECENT_MAX

HOSTILE = "<img/src=x/onerror=document.title='owned'><script>document.title='owned'</script>"


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    """A browser."""
    with browsing(tmp_path / "chromium") as tab:
        yield tab


def number(text: str) -> int:
    """Read a figure as the page writes it."""
    return int(text.split()[0].replace(",", ""))


def status(recorder: Running) -> dict[str, Any]:
    """Return what /status says."""
    found: dict[str, Any] = json.loads(recorder.get("/status")[1])
    return found


def assert_quiet(tab: Tab, address: str) -> None:
    """Nothing was complained of, and nobody else was asked for anything."""
    assert tab.complaints == []
    assert {urlsplit(url).netloc for url in tab.requests if not url.startswith("data:")} == {address}


def test_the_page_shows_what_status_says(tmp_path: Path, tab: Tab) -> None:
    """Figures move, and each lies between two answers of /status; files, clients and rotation are there; no error."""
    with ExitStack() as stack:
        port = stack.enter_context(
            simulating("--cluster", "stocks", "--symbols", "20", "--rate", "2000", cwd=tmp_path)
        )
        settings = live_settings(
            port,
            tmp_path / "a",
            NDJSON_MAX_BYTES="500KiB",
            NDJSON_COMPRESSION="zstd",
            NDJSON_ROTATE_SECS="3600",
            NDJSON_MIN_FREE_BYTES="1",
        )
        recorder = stack.enter_context(running("run", cwd=tmp_path, **settings))
        recorder.wait_for("subscribed")
        url = f"ws://{recorder.address_of('filtered')}/stocks"
        client = stack.enter_context(connect(url, user_agent_header="a client of ours", compression=None))
        client.send(json.dumps({"action": "auth", "params": KEY}))
        client.send(json.dumps({"action": "subscribe", "params": "T.AAPL,Q.MSFT"}))
        tab.open(f"http://{recorder.address}/")
        tab.wait(lambda: tab.text("h1") == "Recording", "the state")
        assert tab.text("#state-words") == "stocks · nothing dropped · the books balance"
        for shown, said in (
            (".feed .received", lambda content: content["feeds"][0]["events_received"]),
            ("#balance td:nth-child(2)", lambda content: content["sinks"][0]["balance"]["received"]),
        ):
            begun = said(status(recorder))
            tab.wait(lambda shown=shown, begun=begun: number(tab.text(shown)) > begun, f"{shown} moves")
            assert begun < number(tab.text(shown)) <= said(status(recorder))
        tab.wait(lambda: number(tab.text(".feed .value")) > 500, "the rate")
        tab.wait(lambda: tab.run("document.querySelectorAll('.feed canvas').length") == 1, "the plot")
        tab.wait(lambda: "api-key" in tab.text("#clients"), "the client")
        row = tab.texts("#clients tbody tr:first-child td")
        assert row[0] == "127.0.0.1:%d" % client.local_address[1]  # noqa: UP031
        assert row[1:3] == ["filtered", "T.AAPL, Q.MSFT"]
        assert row[9] == "a client of ours"
        assert tab.texts("#active td:first-child") == ["polygon.ndjson"]
        tab.wait(lambda: tab.text("#active td:nth-child(4)").startswith("in "), "the next rotation")
        tab.wait(
            lambda: tab.run("document.querySelectorAll('#recent tbody tr').length") >= 2, "finished files"
        )
        finished = [file["file"] for file in status(recorder)["archive"]["recent"]]
        assert set(tab.texts("#recent td:first-child")[-2:]) <= set(finished)
        tab.wait(
            lambda: "KiB" in tab.text("#recent tbody tr:last-child td:nth-child(4)"), "a compressed size"
        )
        assert "free" in tab.text("#disk-more")
        assert re.fullmatch(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S.*", tab.text("#since"))
        assert tab.text("#since").removeprefix("since ") in tab.text("#run")
        assert_symbols_are_shown(tab)
        assert status(recorder)["run_id"] in tab.text("#run")
        assert_quiet(tab, recorder.address)


def assert_symbols_are_shown(tab: Tab) -> None:
    """The busiest symbols have a price and a rate; a search narrows them, in whatever case, and ends when it is empty."""
    tab.wait(lambda: len(tab.texts("#symbols tbody tr")) == 20, "all symbols")
    rates = [float(text) for text in tab.texts("#symbols td:nth-child(4)")]
    assert rates[0] == max(rates) > 1
    typed = (
        "const box = document.querySelector('#find'); box.value = {!r}; box.dispatchEvent(new Event('input'))"
    )
    tab.run(f"(() => {{{typed.format('aap')}}})()")
    tab.wait(lambda: tab.texts("#symbols td:nth-child(1)") == ["AAPL"], "what is searched for")
    assert tab.text("#symbols td:nth-child(2)") == "stocks"
    tab.wait(lambda: 200 < float(tab.text("#symbols td:nth-child(3)")) < 350, "a price")
    assert tab.text("#symbols-fine") == "1 symbol of 20 with “aap”."
    tab.run(f"(() => {{{typed.format('<img>')}}})()")
    tab.wait(lambda: tab.text("#symbols-fine") == "0 symbols of 20 with “<img>”.", "nothing")
    tab.run(f"(() => {{{typed.format('')}}})()")
    tab.wait(lambda: len(tab.texts("#symbols tbody tr")) == 20, "all symbols again")


def test_a_replay_takes_orders_from_its_page(tmp_path: Path, tab: Tab) -> None:
    """State, time and progress move; the buttons pause, step, change the rate and stop, and nothing else is asked."""
    archive = Archive(archive_settings(tmp_path / "a" / "polygon.ndjson", flush_every=1)).open()
    archive.writer.append("session_opened", cluster="stocks")
    for _ in range(100):
        archive.write("TQ")
        archive.clock.advance(10)
    archive.close()

    def click(name: str) -> None:
        tab.run(f"document.querySelector('#replay-{name}').click()")

    options = ("--free-ports", "--key", KEY, "--start-paused")
    with running("replay", str(archive.folder), *options, cwd=tmp_path, LOG_FORMAT="json") as replay:
        replay.wait_for("started")
        tab.open(f"http://{replay.address}/")
        tab.wait(lambda: tab.text("#replay-state") == "Paused at 1×", "the replay")
        assert tab.text("#replay-at").startswith("2026-")
        click("step")
        tab.wait(lambda: tab.text("#replay-events") == "2 events", "a step")
        tab.run(
            "(() => { const list = document.querySelector('#replay-rate'); list.value = '100';"
            " list.dispatchEvent(new Event('change')); })()"
        )
        tab.wait(lambda: tab.text("#replay-state") == "Paused at 100×", "the rate")
        click("play")
        tab.wait(lambda: tab.text("#replay-state") == "Playing at 100×", "the beginning")
        assert tab.text("#replay-play") == "Pause"
        tab.wait(lambda: number(tab.text("#replay-events")) > 20, "events")
        assert 0 < tab.run("document.querySelector('#replay-progress').value") < 1
        tab.wait(lambda: tab.text("h1") == "Replaying", "the state")
        click("play")
        tab.wait(lambda: tab.text("#replay-state") == "Paused at 100×", "the pause")
        tab.wait(lambda: "% of it" in tab.text("#replay-part"), "the progress")
        for width, scheme in ((360, "dark"), (1280, "light")):
            tab.show_as(width=width, height=800, prefers_color_scheme=scheme)
            assert tab.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
            assert tab.run(_CONTRASTS) == []
        assert_quiet(tab, replay.address)
        click("stop")
        assert tab.text("#replay-stop") == "Really stop?"
        click("stop")
        assert replay.wait() == 0


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found: int = listener.getsockname()[1]
        return found


def test_the_page_follows_the_exchange_and_the_recorder(tmp_path: Path, tab: Tab) -> None:
    """Not ready with its reasons when the exchange goes, ready and a gap when it is back; then the recorder itself
    goes: the page says so, with the age of what it shows, and goes on by itself with the next one."""
    port, ops_port = free_port(), free_port()
    exchange = ("--port", str(port), "--cluster", "stocks", "--symbols", "5", "--rate", "500")
    settings = live_settings(port, tmp_path / "a", METRICS_ADDR=f"127.0.0.1:{ops_port}")
    with ExitStack() as first_exchange:
        first_exchange.enter_context(simulating(*exchange, cwd=tmp_path))
        with running("run", cwd=tmp_path, **settings) as recorder:
            recorder.wait_for("subscribed")
            tab.open(f"http://127.0.0.1:{ops_port}/")
            tab.wait(lambda: tab.text("h1") == "Recording", "recording")
            icon = tab.run("document.querySelector('#icon').href")
            first_exchange.close()
            tab.wait(lambda: tab.text("h1") == "Not ready", "not ready")
            assert tab.run("document.title").startswith("Not ready")
            assert tab.run("document.querySelector('#icon').href") != icon
            tab.wait(lambda: tab.text("#reasons li").startswith("stocks: "), "the reason")
            [reason] = recorder.get("/ready")[1].splitlines()[1:]
            tab.wait(lambda: tab.text("#reasons li") == reason, "the reason of /ready")
            assert "no data for" in tab.text(".feed .mark")
            link = tab.run("[...document.querySelectorAll('#help a')].find((a) => a.offsetParent)?.href")
            assert link == f"http://127.0.0.1:{ops_port}/page/runbook.html#alert-recordernotready"
            tab.wait(lambda: tab.text("#gaps-fine").startswith("stocks: no data for "), "the open gap")
            with simulating(*exchange, cwd=tmp_path):
                tab.wait(lambda: tab.text("h1") == "Recording", "recording again")
                tab.wait(lambda: tab.text("#gaps tbody td:first-child") == "stocks", "the gap")
                assert tab.texts("#reasons li") == []
                assert tab.run("document.querySelector('#help').hidden")
                complaints = list(tab.complaints)
                assert recorder.stop(signal.SIGTERM) == 0
                tab.wait(lambda: tab.text("h1") == "No connection", "no connection")
                assert "old: it was " in tab.text("#state-words")
                with running("run", cwd=tmp_path, **settings) as second:
                    second.wait_for("subscribed")
                    tab.wait(lambda: tab.text("h1") == "Recording", "the next run")
                    tab.wait(lambda: status(second)["run_id"] in tab.text("#run"), "its name")
    assert complaints == []
    # What the browser itself says of a server that is gone is no error of the page.
    assert all("/events" in complaint or "/status" in complaint for complaint in tab.complaints)


@contextmanager
def answering(make: Callable[[], OpsServer]) -> Iterator[str]:
    """Run an ops server in a thread; return its address."""
    loop = asyncio.new_event_loop()
    server = make()
    begun = threading.Event()

    async def serve() -> None:
        await server.open()
        begun.set()
        try:
            await server.run()
        finally:
            await server.close(0)

    async def main() -> None:
        task.append(asyncio.ensure_future(serve()))
        await asyncio.wait(task)

    task: list[asyncio.Future[None]] = []
    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), daemon=True)
    thread.start()
    try:
        assert begun.wait(20)
        yield server.address
    finally:
        loop.call_soon_threadsafe(lambda: task[0].cancel())
        thread.join(20)
        loop.close()


def crowded() -> OpsServer:
    """Return a server with more of everything than anybody has, and names that are an attack."""
    clock = SystemClock()
    feeds = [feed_of(f"cluster-{place}") for place in range(20)]
    for feed in feeds:
        make_ready(feed, clock)
        feed.recent_gaps = (Gap(1_000, 5_000, HOSTILE),) * RECENT_MAX
        feed.gaps = RECENT_MAX
    feeds[0].connected = False
    feeds[0].reason = f"the exchange says {HOSTILE}"
    ledger = Ledger()
    sink = ledger.sink("ndjson")
    for place in range(300):
        ledger.channel("cluster-0", f"{place}{HOSTILE}").received = sink.recorded["cluster-0", str(place)] = 1
    sink.note_drops(clock.wall_ns() // 1_000_000, "cluster-0", {HOSTILE: 5}, HOSTILE)
    archive = ArchiveStats()
    names = [f"{place}{HOSTILE}.ndjson" for place in range(100)]
    archive.active = {name: ActiveSegment(name, 10**9, 10**6) for name in names}
    archive.recent = tuple(ClosedSegment(f"{HOSTILE}{n}", 1, 1, 1, "size") for n in range(RECENT_MAX))
    clients = [
        ClientStats(
            port="filtered",
            number=place,
            worker=0,
            address="2001:db8::ffff:ffff:ffff:ffff",
            address_port=65535,
            cluster="",
            token=HOSTILE,
            agent=HOSTILE,
            topics=(f"T.{HOSTILE}", "Q.*"),
            topics_count=10_000,
            unread_bytes=place,
            lag_secs=0.0,
            events=10**12,
            bytes=10**15,
            connected_secs=10**7,
        )
        for place in range(500)
    ]
    parts = [PartStats(f"part-{place}", state="up") for place in range(20)]
    failed_at = clock.wall_ns() // 1_000_000 - 80_000
    parts.append(
        PartStats("zmq", False, "degraded", reason=HOSTILE, restarts=3, failure=HOSTILE, failed_at=failed_at)
    )
    parts.append(PartStats("servers", state="up", restarts=1, failure="a defect", failed_at=failed_at))
    return OpsServer(
        OpsSettings(address="127.0.0.1:0"),
        Observed(
            feeds,
            ledger,
            Bus(),
            "3f1c",
            clock,
            archive=archive,
            servers=[
                ServerStats(
                    "filtered",
                    clients=500,
                    events_dropped=1200,
                    events_conflated=34,
                    resumes=Counter(recovered=3, partial=1),
                )
            ],
            clients=lambda _: clients,
            parts=lambda: parts,
        ),
    )


def test_crowds_and_hostile_names(tab: Tab) -> None:
    """500 clients, 20 feeds, 100 files: the list has its bound and says so; what is said is text, never markup; on a
    phone no part of it widens the page."""
    with answering(crowded) as address:
        tab.show_as(width=360, height=780)
        tab.open(f"http://{address}/")
        tab.wait(lambda: tab.text("h1") == "Not ready", "the state")
        tab.wait(lambda: tab.text("#run"), "all of it")
        assert HOSTILE in tab.text("#reasons li")
        assert HOSTILE in tab.text("#active td:first-child")
        assert tab.run("document.querySelectorAll('#clients tbody tr').length") == CLIENTS_LISTED_MAX
        assert tab.text("#clients-fine") == f"The {CLIENTS_LISTED_MAX} that leave most unread, of 500."
        last = tab.run("document.querySelector('#clients tbody tr:last-child').textContent")
        assert HOSTILE in last
        row = "document.querySelector('#servers tbody tr').cells"
        assert tab.run(f"[{row}[6].textContent, {row}[7].textContent]") == ["1,234", "4"]
        assert tab.run(f"{row}[6].title") == "as clients had chosen: dropped 1,200, conflated 34"
        assert "recovered 3" in tab.run(f"{row}[7].title")
        assert tab.run("document.querySelectorAll('.feed').length") == 20
        assert tab.texts("#parts td:nth-child(1)") == ["zmq", "servers"]
        assert tab.texts("#parts td:nth-child(2)") == ["degraded", "up"]
        assert tab.texts("#parts td:nth-child(5)") == [HOSTILE, "a defect"]
        assert tab.run("document.querySelectorAll('main img, main script, main [onerror]').length") == 0
        assert tab.run("document.title").startswith("Not ready")
        assert tab.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert_quiet(tab, address)


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_screen(tab: Tab, width: int, scheme: str) -> None:
    """No page scrolls sideways; texts stand out from what is behind them by 4.5 to 1 in both schemes (WCAG 1.4.3)."""
    with answering(crowded) as address:
        tab.show_as(width=width, height=800, prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
        tab.open(f"http://{address}/")
        tab.wait(lambda: tab.text("#run"), "the page")
        assert tab.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        paper = tab.run("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(16, 19, 22)") == (scheme == "dark")
        assert tab.run(_CONTRASTS) == []


_CONTRASTS = """(() => {
  const parse = (color) => color.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = parse(getComputedStyle(each).backgroundColor);
      if (color.length < 4 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const weak = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.offsetParent || element.closest("template, noscript")) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) weak.push(`${element.tagName}.${element.className} ${ratio.toFixed(2)}`);
  }
  return weak;
})()"""


def test_the_keyboard_reaches_everything(tab: Tab) -> None:
    """Tab goes through the skip link, every list that scrolls and every link, each with a visible outline; every part
    has its landmark or heading, every table a caption, and the state is announced."""
    with answering(crowded) as address:
        tab.open(f"http://{address}/")
        tab.wait(lambda: tab.text("#run"), "the page")
        wanted = set(
            tab.run(
                "[...document.querySelectorAll('a, input, .scroll')].filter((e) => e.offsetParent)"
                ".map((e) => e.getAttribute('aria-label') || e.textContent)"
            )
        )
        reached = set()
        for _ in range(len(wanted) + 5):
            tab.press("Tab")
            reached.add(
                tab.run(
                    "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"
                )
            )
            outline = tab.run("getComputedStyle(document.activeElement).outlineStyle")
            is_page = tab.run("document.activeElement === document.body")
            assert outline == "solid" or is_page
        assert wanted <= reached
        assert {"Active files", "Clients", "Skip to the feeds", "/status"} <= reached
        for selector in ("header", "main", "footer", "nav[aria-label]"):
            assert tab.run(f"document.querySelectorAll('{selector}').length") == 1, selector
        assert tab.run("[...document.querySelectorAll('table')].every((table) => table.caption)")
        assert tab.run(
            "[...document.querySelectorAll('section')].every((part) => "
            "document.getElementById(part.getAttribute('aria-labelledby')))"
        )
        assert tab.run("document.querySelector('h1').getAttribute('aria-live')") == "polite"
        assert tab.run("document.documentElement.lang") == "en"


def test_before_the_first_figures_the_page_says_so(tab: Tab) -> None:
    """Without its script, and until the first figures, the page has words and a link, and no empty boxes."""
    with answering(crowded) as address:
        tab.call("Emulation.setScriptExecutionDisabled", value=True)
        tab.open(f"http://{address}/")
        tab.wait(lambda: tab.text("h1") == "Connecting", "the page as it is sent")
        assert tab.text("#state-words").startswith("The first figures come within a second or two.")
        assert not tab.run("[...document.querySelectorAll('.figures, .pair')].some((e) => e.offsetParent)")
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
        tab.open(f"http://{address}/")
        is_shown = "[...document.querySelectorAll('.figures')].some((e) => e.offsetParent)"
        tab.wait(lambda: tab.run(is_shown), "the figures")


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_runbook_is_at_hand(tab: Tab, width: int, scheme: str) -> None:
    """The recorder has its runbook itself: readable on every screen, each link within it leads somewhere."""
    with answering(crowded) as address:
        tab.show_as(width=width, height=800, prefers_color_scheme=scheme)
        tab.open(f"http://{address}/page/runbook.html#alert-recordernotready")
        tab.wait(lambda: tab.text("h1") == "What to do", "the runbook")
        assert tab.run("document.querySelector(':target').textContent") == "Alert RecorderNotReady"
        links = tab.run("[...document.querySelectorAll('a')].map((a) => a.getAttribute('href'))")
        assert links[0] == "../"
        assert len(links) > 40
        assert all(
            tab.run(f"document.getElementById({json.dumps(link[1:])}) !== null") for link in set(links[1:])
        )
        assert tab.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert tab.run(_CONTRASTS) == []
        assert_quiet(tab, address)


def times_asked(tab: Tab) -> int:
    """Return how often the page has asked for the other recorders."""
    tab.run("0")  # takes what the browser has said meanwhile
    return sum(url.endswith("/recorders") for url in tab.requests)


def test_other_recorders_have_a_line_each(tab: Tab) -> None:
    """This one first, those that do not answer by name; what they say is text, on a phone and in the dark, too."""
    clock = SystemClock()

    def make(others: tuple[str, ...], run_id: str) -> OpsServer:
        feed = feed_of("stocks")
        make_ready(feed, clock)
        settings = OpsSettings.model_construct(address="127.0.0.1:0", page_recorders=others)
        servers = [ServerStats("filtered", clients=7)]
        return OpsServer(settings, Observed([feed], Ledger(), Bus(), run_id, clock, servers=servers))

    with answering(crowded) as first:
        others = (f"http://{first}", "http://127.0.0.1:9")
        with answering(lambda: make(others, "this")) as address:
            tab.open(f"http://{address}/")
            tab.wait(lambda: len(tab.texts("#recorders tbody tr")) == 3, "the recorders")
            names = tab.texts("#recorders td:nth-child(1)")
            assert names[0].endswith(f"{address} (this one)")
            assert names[1].endswith(first)
            assert names[2] == "127.0.0.1:9"
            assert tab.texts("#recorders td:nth-child(2)") == ["serving", "not ready", "no answer"]
            assert tab.texts("#recorders td:nth-child(3)") == ["serves", "records (ndjson), serves", ""]
            reasons = tab.texts("#recorders-reasons li")
            assert HOSTILE in reasons[0]
            assert reasons[-1].startswith("127.0.0.1:9: cannot be reached: ")
            assert tab.texts("#recorders td:nth-child(9)") == ["7", "500", ""]
            assert tab.text("#recorders-fine") == "1 of 3 are ready."
            assert tab.run("document.querySelectorAll('main img, main script, main [onerror]').length") == 0
            for width, scheme in ((360, "dark"), (1280, "light")):
                tab.show_as(width=width, height=800, prefers_color_scheme=scheme)
                assert tab.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
                assert tab.run(_CONTRASTS) == []
            asked = times_asked(tab)
            tab.wait(lambda: times_asked(tab) > asked, "the next question")
            assert_quiet(tab, address)


def test_without_a_place_the_page_asks(tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where as many follow as may, the page takes /status instead, again and again."""
    monkeypatch.setattr("recorder.ops.live.FOLLOWERS_MAX", 0)
    with answering(crowded) as address:
        tab.open(f"http://{address}/")
        tab.wait(lambda: tab.text("h1") == "Not ready", "the state")
        first = tab.text("#about")
        tab.wait(lambda: tab.text("#about") != first, "the next answer")
        assert all("503" in complaint for complaint in tab.complaints)
        eventually_sync(
            lambda: sum(url.endswith("/status?find=") for url in tab.requests) >= 2, "two questions"
        )
