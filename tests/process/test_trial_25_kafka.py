"""Trial 25: Kafka brokers are killed and stand still: the topic has what the archive has, each event once, in order."""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from commands import live_settings, running, simulating
from kafka_brokers import clustered, kafka_variables, messages_of, payloads, proven, shared_broker, stored
from trials import LONG, report, scale
from waiting import eventually_sync, lasting

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 3600))]

RATE: Final = 3000
FAULTS: Final = scale(2, 20)
STILL_SECS: Final = scale(2.0, 12.0)
"""In the long form longer than nothing may be acknowledged."""
TOPIC: Final = "trial.stocks.frames"


def test_brokers_that_are_killed_and_stand_still(tmp_path: Path) -> None:
    """kill -9 of a broker, and SIGSTOP; of one alone, or of any of three. The archive misses nothing for it either."""
    dice = random.Random(25)
    folder = tmp_path / "a"
    slowest_secs = 0.0
    with ExitStack() as stack:
        brokers = stack.enter_context(clustered(tmp_path / "kafka", 3)) if LONG else [shared_broker()]
        port = stack.enter_context(simulating("--cluster", "stocks", "--rate", str(RATE), cwd=tmp_path))
        addresses = ",".join(broker.address for broker in brokers)
        settings = kafka_variables(
            brokers[0], "trial", KAFKA_BROKERS=addresses, KAFKA_REPLICAS=str(len(brokers))
        )
        recorder = stack.enter_context(
            running("run", cwd=tmp_path, **live_settings(port, folder, **settings))
        )
        recorder.wait_for("started")
        eventually_sync(lambda: stored(recorder) > RATE / 3, "events in the topic")
        for number in range(FAULTS):
            broker = dice.choice(brokers)
            before, begun = stored(recorder), time.monotonic()
            if number % 2:
                broker.pause()
                lasting(dice.uniform(0.5, STILL_SECS) if LONG else STILL_SECS)
                broker.resume()
            else:
                broker.kill()
                if not LONG:
                    recorder.wait_for("kafka_interrupted")
                    code, text = recorder.get("/ready?verbose")
                    assert code == 503
                    assert f"kafka: no broker of {addresses} can be used: " in text
                    assert "Connection refused" in text
                broker.start()
            eventually_sync(lambda: stored(recorder) > before, "an acknowledgement", 120)
            slowest_secs = max(slowest_secs, time.monotonic() - begun)
            before = stored(recorder)
            eventually_sync(lambda: stored(recorder) > before + RATE / 3, "events after the fault", 120)
        assert recorder.stop() == 0
        balances = {entry["sink"]: entry for entry in recorder.logged("balance")}
        messages = messages_of(brokers[0], TOPIC)
    assert balances["kafka"]["dropped"] == 0
    found, expected = Counter(proven(messages)), Counter(payloads(folder))
    assert [*found] == [*expected], "the order is that of the archive"
    missing, doubled = expected - found, found - expected
    assert (missing.total(), doubled.total()) == (0, 0)
    assert len({message.headers["Writer"] for message in messages}) == 1
    report(
        25,
        fault="a Kafka broker is killed, or stands still",
        injected=f"`kill -9` and SIGSTOP for up to {STILL_SECS:g} s in turn, of "
        + ("any of three brokers, with three replicas" if LONG else "the only broker"),
        holds="the topic has the archive's events, each once, in order; nothing is dropped",
        figure=f"{FAULTS} faults, {found.total():,} events, 0 missing, 0 doubled, "
        f"at most without an acknowledgement {slowest_secs:.1f} s",
    )
