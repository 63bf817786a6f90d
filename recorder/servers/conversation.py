"""The conversation of one client with its port, from the first message to the last."""

from __future__ import annotations

import asyncio
from typing import Final, Literal

from aiohttp import WSMsgType, web

from recorder.access_log.book import Entry
from recorder.access_log.record import fingerprint
from recorder.log import enabled, get_logger
from recorder.polygon import control
from recorder.polygon.careful import statuses_in
from recorder.polygon.rows import Status
from recorder.polygon.server import Action, Close, Send, Subscribe, Unsubscribe
from recorder.servers.access import Access
from recorder.servers.client import Client
from recorder.servers.past.resumes import Resumes
from recorder.servers.port import Port
from recorder.servers.sockets import answer_to_close
from recorder.servers.stats import ServerStats

_ERROR: Final = b'[{"ev":"status","status":"error"'
_TOPICS_LOGGED: Final = 20

log = get_logger("polygon_clients")


class TokenName:
    """Checks the token of one client and remembers the name and the hash of a good one."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self.name = ""
        self.hash = ""

    def __call__(self, token: str) -> Status | None:
        """Return the status that refuses the token, None if it is good."""
        tokens = self._access.rules.tokens
        name = tokens.check(token)
        if name is None:
            return control.AUTH_FAILED
        self.name = name
        self.hash = tokens.hash_of(name)
        return None


class Conversation:
    """Carries out what the client's session decides. Whatever the client sends, it ends nobody but itself."""

    def __init__(
        self,
        port: Port,
        client: Client,
        token_name: TokenName,
        access: Access,
        stats: ServerStats,
        resumes: Resumes,
    ) -> None:
        """`token_name` is what the client's session checks its token with."""
        self._resumes = resumes
        self._port = port
        self._client = client
        self._session = client.session
        self._token_name = token_name
        self._guard = access.guard
        self._admission = access.admission
        self._book = access.book
        self._entry: Entry | None = None
        """Of the access log, once the client is let in."""
        self._stats = stats

    async def begin(self) -> None:
        """Greet the client, or turn it away."""
        client, port = self._client, self._port
        log.debug(
            "client_connected",
            port=port.name,
            address=client.address,
            cluster=client.cluster,
            agent=client.agent,
        )
        if client.frame_guard is not None:
            client.frame_guard.opened(client.close)
        if not await self._admission.enter(port.name):
            self._turn_away(1013, "full", "this recorder has as many clients as it may have")
        elif port.greets(client.cluster):
            self._perform(self._session.greet())

    async def listen(self, ws: web.WebSocketResponse[bool]) -> None:
        """Handle requests until the connection ends."""
        client = self._client
        while True:
            message = await ws.receive()
            kind = message.type
            if kind is WSMsgType.TEXT or kind is WSMsgType.BINARY:
                if client.closing:
                    continue
                if not client.may_request(len(message.data)):
                    client.close(1008, "too many requests", "too_many_requests")
                    continue
                await self._receive(message.data)
            elif kind is WSMsgType.PING:
                if client.may_request(0):
                    self._resumes.ping(self._port, client, bytes(message.data))
                else:
                    client.close(1008, "too many pings", "too_many_requests")
            elif kind is WSMsgType.PONG:
                client.pong_at = asyncio.get_running_loop().time()
                if not client.may_request(0):
                    client.close(1008, "too many pongs", "too_many_requests")
            elif kind is WSMsgType.CLOSE:
                if not client.closing:
                    code = int(message.data or 1000)
                    client.reason = f"closed {code}"
                    await ws.close(code=answer_to_close(code))
                return
            else:
                if kind is WSMsgType.ERROR and not client.closing:
                    client.reason = f"protocol error: {message.data}"
                return

    def end(self) -> None:
        """Remove the client from everything that it took part in: its connection has ended."""
        client, stats = self._client, self._stats
        client.ended()
        topics = list(self._session.topics)
        stats.subscriptions -= len(topics)
        if client.name:
            stats.clients_authenticated -= 1
        self._admission.leave(self._port.name, client.token_hash)
        self._resumes.forget(self._port, client)
        if self._book is not None and self._entry is not None:
            self._book.leave(self._entry)
        log.info(
            "client_left",
            port=self._port.name,
            token=client.name or None,
            address=client.address,
            reason=client.reason,
            secs=round(asyncio.get_running_loop().time() - client.joined_at, 1),
            topics=topics[:_TOPICS_LOGGED],
            topics_count=len(topics),
            events=client.events_sent,
            bytes=client.bytes_sent,
        )

    async def _receive(self, data: str | bytes) -> None:
        client, session, stats = self._client, self._session, self._stats
        stats.requests += 1
        before = session.authenticated
        if not before:
            # Delay guesses, including those on other connections from the same address.
            delay_secs = self._guard.delay_secs(client.address)
            if delay_secs:
                await asyncio.sleep(delay_secs)
                if client.closing:
                    return
        actions = session.receive(data)
        for action in actions:
            if isinstance(action, Subscribe) and action.after is not None:
                await self._resumes.arrival(client, action.after)
                if client.closing:
                    return
        if enabled("polygon_clients", "debug"):
            self._log_request(data, actions)
        if session.authenticated and not before:
            await self._admit()
            if client.closing:
                return
        elif session.closed:
            stats.auth_failures += 1
            self._guard.failed(client.address)
            reasons = [action.reason for action in actions if isinstance(action, Close)]
            log.warning(
                "client_refused",
                port=self._port.name,
                address=client.address,
                reason=", ".join(reasons),
            )
        for action in actions:
            if isinstance(action, Subscribe) and action.manner.snapshot:
                await self._port.prepare(action.manner)
        self._perform(actions)

    def _log_request(self, data: str | bytes, actions: list[Action]) -> None:
        """Log what the client asks for, and what is refused, without its token."""
        client, request = self._client, control.parse_request(data)
        facts = {"port": self._port.name, "token": client.name or None, "address": client.address}
        if isinstance(request, control.Request):
            topics = list(request.topics[:_TOPICS_LOGGED])
            log.debug(
                "client_request",
                **facts,
                action=request.action,
                topics=topics,
                topics_count=len(request.topics),
                since_ms=request.since_ms,
                after=request.after,
            )
        if not self._session.authenticated:
            return  # what a stranger sends amiss may be a key
        answers = [action.frame for action in actions if isinstance(action, Send)]
        for refusal in [answer for answer in answers if answer.startswith(_ERROR)][:_TOPICS_LOGGED]:
            for status in statuses_in(refusal):
                log.debug("client_request_refused", **facts, reason=status.message)

    async def _admit(self) -> None:
        """Count an authenticated client for its token."""
        client = self._client
        client.name, client.token_hash = self._token_name.name, self._token_name.hash
        if client.frame_guard is not None:
            client.frame_guard.authenticated()
        self._stats.clients_authenticated += 1
        if not await self._admission.admit(self._port.name, client.token_hash):
            words = "this token has as many clients as it may have"
            self._turn_away(1008, "too_many_for_token", words)
            return
        if self._book is not None:
            stands_for = fingerprint(client.token_hash)
            self._entry = self._book.join(client, self._port.name, stands_for, lambda: self._session.topics)
        log.info(
            "client_joined",
            port=self._port.name,
            token=client.name,
            address=client.address,
            cluster=client.cluster,
        )

    def _turn_away(self, code: int, reason: Literal["full", "too_many_for_token"], words: str) -> None:
        self._stats.refused[reason] += 1
        self._client.say(control.encode_status(Status(control.MAX_CONNECTIONS.status, words)))
        self._client.close(code, words, reason)

    def _perform(self, actions: list[Action]) -> None:
        """Carry out what the session decided, in order; answers that follow each other are one write."""
        client, stats = self._client, self._stats
        answers: list[bytes] = []
        for action in actions:
            if isinstance(action, Send):
                if action.frame.startswith(_ERROR):
                    stats.bad_requests += 1
                answers.append(action.frame)
                continue
            if answers:
                client.say(*answers)
                answers = []
            match action:
                case Close(code, reason):
                    client.close(code, reason, "auth_failed")
                case Subscribe(topics):
                    stats.subscriptions += len(topics)
                    if self._entry is not None:
                        self._entry.subscribed(topics)
                    if action.manner.slow is not None:
                        self._port.when_slow(client, action.manner.slow)
                    self._resumes.subscribe(self._port, client, action, stats)
                case Unsubscribe(topics):
                    stats.subscriptions -= len(topics)
                    if self._entry is not None:
                        self._entry.unsubscribed(topics)
                    self._resumes.unsubscribe(self._port, client, topics)
        if answers:
            client.say(*answers)

    def __repr__(self) -> str:
        return f"Conversation({self._port.name}, {self._client!r})"
