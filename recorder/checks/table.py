"""Every check, once: what it looks at, its function, and how long it may take. The run and the docs follow it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from recorder.archive.disk import reason_of
from recorder.checks.access_log import SUBJECT as ACCESS_LOG
from recorder.checks.access_log import check_access_log
from recorder.checks.archive import READ_SECS, check_archive
from recorder.checks.configured import check_clients, check_hours, check_native, check_settings, check_tls
from recorder.checks.exchange import SETTLE_SECS, check_exchange, find_strangers
from recorder.checks.findings import Finding, failure
from recorder.checks.kafka import ASK_SECS, check_kafka
from recorder.checks.machine import check_files, check_ports, check_time_service
from recorder.checks.nats import LOOK_SECS, check_nats
from recorder.checks.offset import check_offset
from recorder.checks.scene import Scene
from recorder.checks.space import check_space, check_speed
from recorder.checks.uploads import ASK_SECS as UPLOAD_SECS
from recorder.checks.uploads import check_uploads

_USUAL_SECS: Final = 4.0
"""With the slowest of the first: a report within 15 s and the sample, whatever hangs."""


class Check(NamedTuple):
    """One check; its findings stand in the report in the order of the table."""

    subject: str
    run: Callable[[Scene], Awaitable[list[Finding]]]
    limit_secs: float = _USUAL_SECS
    samples: bool = False
    """Whether the time of the sample comes on top."""


FIRST: Final = (
    Check("settings", check_settings),
    Check("native code", check_native),
    Check("clients", check_clients),
    Check("tls", check_tls),
    Check("market hours", check_hours, 8.0),
    Check("ports", check_ports),
    Check("open files", check_files),
    Check("clock", check_time_service),
    Check("clock", check_offset, 8.0),
    Check("exchange", check_exchange, SETTLE_SECS + 1.5, samples=True),
    Check("archive", check_archive, READ_SECS + 2.0),
    Check(ACCESS_LOG, check_access_log),
    Check("nats", check_nats, LOOK_SECS + 1.0),
    Check("kafka", check_kafka, ASK_SECS + 2.0),
    Check("uploads", check_uploads, UPLOAD_SECS + 2.0),
)
"""At once."""
THEN: Final = (Check("disk speed", check_speed), Check("disk space", check_space))
"""These run once the first are done and the rate is known, so that they do not disturb the measurement."""


async def run_all(scene: Scene) -> list[Finding]:
    """Run every check. Return what they found, in the order of the table."""
    # Before anything here is connected anywhere.
    scene.strangers = await find_strangers(scene)
    found: list[Finding] = []
    for checks in (FIRST, THEN):
        for findings in await asyncio.gather(*(_run(check, scene) for check in checks)):
            found += findings
    return found


async def _run(check: Check, scene: Scene) -> list[Finding]:
    limit_secs = check.limit_secs + (scene.sample_secs if check.samples else 0.0)
    try:
        async with asyncio.timeout(limit_secs):
            return await check.run(scene)
    except TimeoutError:
        text = f"no answer within {limit_secs:g} s: what is looked at there hangs"
        return [
            failure(check.subject, text, "see whether the disk, the name server or the network is at fault")
        ]
    except OSError as error:
        text = f"could not be looked at: {reason_of(error)}"
        return [failure(check.subject, text, "see to it that this user may read it")]
