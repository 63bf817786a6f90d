"""The files of the live page, as they are served: read once, compressed once, known by their content."""

from __future__ import annotations

import gzip
import hashlib
from importlib import resources
from typing import Final

from aiohttp import hdrs, web

_KINDS: Final = {
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "plots.js": "text/javascript",
    "recorders.js": "text/javascript",
    "replay.js": "text/javascript",
    "words.js": "text/javascript",
    "runbook.html": "text/html",
    "uPlot.iife.min.js": "text/javascript",
    "uPlot.min.css": "text/css",
    "uPlot.LICENSE": "text/plain",
}
"""Name to content type. Nothing else is served from the folder."""
INDEX: Final = "index.html"

CONTENT_SECURITY_POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
"""No other host, nothing inline, in no frame, and no text that a script could turn into markup."""


class Assets:
    """The files of the page. They are small, and a browser asks for them (with their ETag) at each visit."""

    def __init__(self) -> None:
        folder = resources.files("recorder.ops") / "page"
        self._files = {name: _File((folder / name).read_bytes(), kind) for name, kind in _KINDS.items()}

    @property
    def names(self) -> list[str]:
        """The files besides the page itself."""
        return [name for name in self._files if name != INDEX]

    def answer(self, name: str, request: web.Request) -> web.Response:
        """Answer a request for one of them."""
        return self._files[name].answer(request)


class _File:
    def __init__(self, content: bytes, kind: str) -> None:
        self._kind = kind
        self._plain = content
        self._gzipped = gzip.compress(content, mtime=0)
        # Weak: the same content stands for both codings.
        self._tag = hashlib.sha256(content).hexdigest()[:20]

    def answer(self, request: web.Request) -> web.Response:
        headers = {
            hdrs.ETAG: f'W/"{self._tag}"',
            hdrs.CACHE_CONTROL: "no-cache",
            hdrs.VARY: "Accept-Encoding",
            "Content-Security-Policy": CONTENT_SECURITY_POLICY,
            "Cross-Origin-Opener-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
        }
        if any(tag.value in (self._tag, "*") for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        body = self._plain
        if "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, "").lower():
            headers[hdrs.CONTENT_ENCODING] = "gzip"
            body = self._gzipped
        return web.Response(body=body, headers=headers, content_type=self._kind, charset="utf-8")
