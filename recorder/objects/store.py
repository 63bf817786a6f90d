"""One place in an object store: objects below a URL, written whole or not at all and proven; the one home of obstore."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from recorder import log
from recorder.errors import Altered, ConfigError, ObjectDiffers, ObjectMissing, PackageMissing, StoreAway
from recorder.objects.credentials import CREDENTIALS, SECRETS
from recorder.objects.fingerprint import PART_BYTES, Fingerprint, fingerprint_of, part_bytes
from recorder.objects.refusals import explained, unusable
from recorder.objects.url import BadUrl, read_url
from recorder.plugins import installing

if TYPE_CHECKING:
    from obstore import GetResult, PutResult

PACKAGE: Final = "obstore"
BLOCK_BYTES: Final = 1 << 20
_CONNECT: Final = timedelta(seconds=5)
_PARTS_AT_ONCE: Final = 2
"""Parts of an object that are under way, hence in memory."""
_SHA256: Final = "sha256"
"""The name of an object's metadata that holds the checksum of its content."""

Blocks = Callable[[], Iterable[bytes]]
"""Reads some content from its beginning, whenever it is called."""
Pace = Callable[[int], None]
"""Called before so many bytes are sent: it may wait, and what it raises ends the sending."""


class _ExistsError(Exception):
    """An object of the name came while ours was about to be put."""


class _ReadFailedError(Exception):
    """The content could not be read while it was sent: no fault of the store."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class Stored(NamedTuple):
    """An object, as the store describes it."""

    name: str
    bytes: int
    etag: str
    sha256: str = ""
    """As it was noted when the object was put; empty where nothing was, and in a list."""
    modified_ms: int = 0
    """When it was put, Unix ms."""


class ObjectStore:
    """The objects below one URL, by their names there. Every call waits; several threads may call at the same time.

    An object is written as a whole or not at all. It is sent with its SHA-256, and proven afterwards: the store must
    have it under the ETag that it returned, with its size and checksum. If that ETag is not derived from the content, the
    object is read back. Raise `StoreAway` where trying again can help, and `StoreRefused` where a person must act.
    """

    def __init__(
        self,
        url: str,
        environ: Mapping[str, str] | None = None,
        *,
        timeout_secs: float = 120,
        retries: int = 2,
    ) -> None:
        """`environ` has what `CREDENTIALS` names, in place of the environment of the process.

        :raises ConfigError: the URL, or what the environment says of the store, cannot be used.
        :raises PackageMissing: obstore is not installed.
        """
        try:
            import obstore
            from obstore import exceptions, store
        except ImportError as error:
            raise PackageMissing(
                f"{url} needs the package {PACKAGE}, which is not installed: {installing(PACKAGE)}"
            ) from error
        try:
            self._url = read_url(url)
        except BadUrl as error:
            raise ConfigError(f"{url!r} {error}") from error
        environ = os.environ if environ is None else environ
        for name in SECRETS:
            if environ.get(name):
                log.register_secret(environ[name])
        self._obstore: Any = obstore
        self._exists = exceptions.AlreadyExistsError
        self._errors = (exceptions.BaseError, OSError, NotImplementedError, ValueError)
        try:
            self._store: Any = store.from_url(str(self._url), **self._options(environ, timeout_secs, retries))
        except self._errors as error:
            raise unusable(error, self.url, is_folder=self._url.scheme == "file") from error

    @staticmethod
    def is_installed() -> bool:
        """Return whether the package that a store needs is there."""
        return find_spec(PACKAGE) is not None

    @property
    def url(self) -> str:
        """The URL, without a slash at its end."""
        return str(self._url)

    def url_of(self, name: str) -> str:
        """Return the URL of an object."""
        return self._url.of(name)

    def head(self, name: str) -> Stored | None:
        """Return what the store says of an object; None where it has none of that name. Raise `StoreError`."""
        try:
            with self._explaining("look at", name):
                return self._stored(name, self._obstore.get(self._store, name, options={"head": True}))
        except ObjectMissing:
            return None

    def stream(self, name: str, *, begin: int = 0, etag: str = "") -> Iterator[bytes]:
        """Yield an object from a byte on, in blocks; `etag` is that of the one object that is meant.

        Raise `ObjectMissing`, `ObjectDiffers` where another object has the name, and other kinds of `StoreError`.
        """
        options: dict[str, Any] = {"if_match": etag} if etag else {}
        if begin:
            options["range"] = {"offset": begin}
        with self._explaining("read", name):
            got = self._obstore.get(self._store, name, options=options)
            left = got.range[1] - got.range[0]
            for block in got.stream(min_chunk_size=BLOCK_BYTES):
                left -= len(block)
                yield bytes(block)
        if left:
            raise StoreAway(
                f"cannot read {self.url_of(name)}: {abs(left)} bytes {'are missing' if left > 0 else 'too many'}"
            )

    def read(self, name: str) -> bytes:
        """Return an object as a whole. Raise as `stream` does."""
        return b"".join(self.stream(name))

    def list(self, below: str = "") -> Iterator[Stored]:
        """Yield every object, or those below a name that ends with a slash. Raise `StoreError`."""
        with self._explaining("list", below):
            for batch in self._obstore.list(self._store, prefix=below.rstrip("/") or None):
                for found in batch:
                    yield self._described(found["path"], found)

    def delete(self, name: str) -> None:
        """Delete an object, if there is one. Raise `StoreError`."""
        try:
            with self._explaining("delete", name):
                self._obstore.delete(self._store, name)
        except ObjectMissing:
            return

    def put(self, name: str, data: bytes) -> Stored:
        """Put an object, in place of any that has its name. Raise `StoreError`."""
        return self.put_content(name, lambda: (data,), len(data), replaces=True)

    def put_file(self, name: str, path: Path, sha256: str = "") -> Stored:
        """Put a file as an object. Raise `OSError`, and what `put_content` raises."""

        def blocks() -> Iterator[bytes]:
            with path.open("rb") as file:
                yield from iter(lambda: file.read(BLOCK_BYTES), b"")

        return self.put_content(name, blocks, path.stat().st_size, sha256)

    def put_content(
        self,
        name: str,
        blocks: Blocks,
        size_bytes: int,
        sha256: str = "",
        *,
        replaces: bool = False,
        pace: Pace = lambda count: None,
    ) -> Stored:
        """Put content as an object, prove it, and return what the store says of it. Memory is bounded whatever the size.

        An object of that name is replaced only with `replaces`, or if it says itself that it is what was left of an
        attempt to put the same content. One that has the content already is left alone.
        Raise `Altered` where the content lacks the checksum or size that it should have, `ObjectDiffers` where
        another object has the name or the store has something else than was put, and other kinds of `StoreError`.
        """
        content = fingerprint_of(blocks(), size_bytes)
        if content.bytes != size_bytes or (sha256 and content.sha256 != sha256):
            raise Altered(f"{name} is not what it was when it was sealed: it is not put to {self.url}")
        found = None if replaces else self.head(name)
        if found is None or self._is_left_over(found, content):
            put = self._send(name, blocks, content, replaces=replaces or found is not None, pace=pace)
            found = self.head(name)
            if found is None:
                raise StoreAway(f"{self.url_of(name)} was put, and is not there")
            if put is not None and put["e_tag"] != found.etag:
                raise ObjectDiffers(
                    f"{self.url_of(name)} is not the object that was put: its ETag is {found.etag} "
                    f"in place of {put['e_tag']}: another program writes there, or the store cannot be relied upon"
                )
        self._prove(found, content)
        return found._replace(sha256=content.sha256)

    def _prove(self, found: Stored, content: Fingerprint) -> None:
        """Make sure that the store has this content. Raise `ObjectDiffers`."""
        if found.bytes == content.bytes and found.sha256 in ("", content.sha256):
            if found.etag.strip('"') == content.etag:
                return
            digest = hashlib.sha256()
            for block in self.stream(found.name, etag=found.etag):
                digest.update(block)
            if digest.hexdigest() == content.sha256:
                return
        raise ObjectDiffers(
            f"{self.url_of(found.name)} has other content than the file here ({found.bytes} bytes there, "
            f"{content.bytes} here) and is not replaced: look whose it is, and delete it there or use another prefix"
        )

    def _is_left_over(self, found: Stored, content: Fingerprint) -> bool:
        """Return whether an object is only a part of the content that it says it has."""
        return found.sha256 == content.sha256 and found.bytes != content.bytes

    def _send(
        self, name: str, blocks: Blocks, content: Fingerprint, *, replaces: bool, pace: Pace
    ) -> PutResult | None:
        """Send content; return what the store says of it, None where an object of that name has come meanwhile."""

        def paced() -> Iterator[bytes]:
            left = content.bytes
            try:
                for block in blocks():
                    left -= len(block)
                    if left < 0:
                        break
                    pace(len(block))
                    yield block
            except OSError as error:
                raise _ReadFailedError(error) from error
            if left:
                # An object of another size is nothing that its name promises.
                raise Altered(f"{name} changed while it was put to {self.url}")

        is_small = content.bytes <= PART_BYTES
        options: dict[str, Any] = {"max_concurrency": _PARTS_AT_ONCE, "chunk_size": part_bytes(content.bytes)}
        if is_small and not replaces:
            options["mode"] = "create"
        if self._url.scheme != "file":
            options["attributes"] = {_SHA256: content.sha256}
        try:
            with self._explaining("put", name):
                data = b"".join(paced()) if is_small else paced()
                put: PutResult = self._obstore.put(
                    self._store, name, data, use_multipart=not is_small, **options
                )
        except _ReadFailedError as failed:
            raise failed.error from None
        except _ExistsError:
            return None
        if self._url.scheme == "file":
            self._make_durable(Path(self._url.prefix, name))
        return put

    @staticmethod
    def _make_durable(path: Path) -> None:
        for place, flags in ((path, os.O_RDONLY), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
            fd = os.open(place, flags | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def _options(self, environ: Mapping[str, str], timeout_secs: float, retries: int) -> dict[str, Any]:
        scheme = self._url.scheme
        if scheme == "file":
            return {}
        config: dict[str, Any] = {
            name.lower(): environ[name] for name in CREDENTIALS[scheme] if environ.get(name)
        }
        client: dict[str, Any] = {"timeout": timedelta(seconds=timeout_secs), "connect_timeout": _CONNECT}
        if scheme == "s3":
            config["aws_checksum_algorithm"] = "sha256"
            endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
            client["allow_http"] = endpoint.lower().startswith("http://")
        retry = {"max_retries": retries, "retry_timeout": timedelta(seconds=timeout_secs)}
        return {"config": config, "client_options": client, "retry_config": retry}

    def _stored(self, name: str, got: GetResult) -> Stored:
        found = self._described(name, got.meta)
        return found._replace(sha256=str(got.attributes.get(_SHA256, "")))

    @staticmethod
    def _described(name: str, meta: Mapping[str, Any]) -> Stored:
        modified_ms = int(meta["last_modified"].timestamp() * 1000)
        return Stored(name, meta["size"], meta["e_tag"] or "", "", modified_ms)

    @contextmanager
    def _explaining(self, doing: str, name: str) -> Iterator[None]:
        try:
            yield
        except self._exists as error:
            raise _ExistsError(name) from error
        except self._errors as error:
            raise self._explained(error, doing, name) from error

    def _explained(self, error: Exception, doing: str, name: str = "") -> Exception:
        return explained(error, doing, self.url_of(name) if name else self.url)

    def __repr__(self) -> str:
        return f"ObjectStore({self.url})"
