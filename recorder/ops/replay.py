"""The control of a replay over HTTP: `GET /replay` says where it stands, `POST /replay/…` changes that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from aiohttp import web

from recorder.sources.replay.player import Player
from recorder.words import moment_text

RATE_MAX: Final = 1_000_000.0
STEPS_MAX: Final = 1_000_000
BURST_MS_MAX: Final = 86_400_000
"""A day. A burst waits for nobody, and clients that cannot take it are cut."""
_TIME_MS_MAX: Final = 253_402_300_799_999

Order = Callable[[dict[str, Any]], None]


class ReplayControl:
    """Takes orders for a player. A page of another origin, which a browser would let send them, is refused."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self._orders: dict[str, Order] = {
            "play": lambda _: player.play(),
            "pause": lambda _: player.pause(),
            "rate": self._set_rate,
            "seek": self._seek,
            "step": self._step,
            "burst": self._burst,
            "stop": lambda _: player.stop(),
        }

    @property
    def routes(self) -> list[web.RouteDef]:
        """What the ops server is to answer."""
        orders = [web.post(f"/replay/{name}", self._answer(order)) for name, order in self._orders.items()]
        return [web.get("/replay", self._describe), *orders]

    async def _describe(self, request: web.Request) -> web.Response:
        return _json(where(self._player))

    def _answer(self, order: Order) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            origin = request.headers.get("Origin", "")
            if origin and urlsplit(origin).netloc != request.host:
                return _refusal(403, "orders are taken from this recorder's own page only")
            try:
                body = await request.read()
                order(_fields_of(body))
            except ValueError as error:
                return _refusal(400, str(error))
            return _json(where(self._player))

        return answer

    def _set_rate(self, fields: dict[str, Any]) -> None:
        rate = fields.get("rate")
        if rate == "max":
            self._player.set_rate(None)
        elif isinstance(rate, int | float) and not isinstance(rate, bool) and 0 < rate <= RATE_MAX:
            self._player.set_rate(float(rate))
        else:
            raise ValueError(f'"rate" must be a number above 0 and up to {RATE_MAX:,.0f}, or "max"')

    def _seek(self, fields: dict[str, Any]) -> None:
        at_ms = fields.get("to")
        if not (isinstance(at_ms, int) and not isinstance(at_ms, bool) and 0 <= at_ms <= _TIME_MS_MAX):
            raise ValueError('"to" must be a time in Unix ms')
        self._player.seek(at_ms)

    def _step(self, fields: dict[str, Any]) -> None:
        self._player.step(_whole(fields, "count", STEPS_MAX, default=1))

    def _burst(self, fields: dict[str, Any]) -> None:
        if ("ms" in fields) is ("count" in fields):
            raise ValueError('name "ms", how much of the data\'s time, or "count", how many reads')
        if "ms" in fields:
            self._player.burst(_whole(fields, "ms", BURST_MS_MAX))
        else:
            self._player.step(_whole(fields, "count", STEPS_MAX))


def where(player: Player) -> dict[str, Any]:
    """Return where a replay stands."""
    stats = player.stats
    return {
        "state": stats.state,
        "rate": "max" if stats.rate is None else stats.rate,
        "position": stats.position,
        "position_text": moment_text(stats.position),
        "from": stats.begin,
        "to": stats.end,
        "progress": stats.progress and round(stats.progress, 6),
        "events": stats.events,
        "gaps": stats.gaps,
        "lag_secs": round(stats.lag_secs, 6),
        "catch_up": stats.catch_up,
        "moved_secs": round(stats.moved_secs, 6),
        "shifted_ms": stats.shifted_ms,
        "clients": player.clients,
    }


def _whole(fields: dict[str, Any], name: str, highest: int, default: int = 0) -> int:
    """Return a field that is a whole number above 0. Raise ValueError."""
    number = fields.get(name, default)
    if not (isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= highest):
        raise ValueError(f'"{name}" must be a whole number from 1 to {highest:,}')
    return number


def _fields_of(body: bytes) -> dict[str, Any]:
    """Return the fields of a body, which may be empty. Raise ValueError."""
    if not body.strip():
        return {}
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"the body is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError("the body must be a JSON object")
    return fields


def _refusal(status: int, words: str) -> web.Response:
    return web.json_response({"error": words}, status=status)


def _json(fields: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(fields), content_type="application/json")
