"""Objects of a bucket: put whole or not at all, proven, never replaced; and every refusal says what to do."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from buckets import Bucket, Server, bucket_server, error
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.wrappers import Request, Response

from recorder.errors import (
    Altered,
    ConfigError,
    ObjectDiffers,
    ObjectMissing,
    StoreAway,
    StoreError,
    StoreRefused,
)
from recorder.objects.fingerprint import PART_BYTES, fingerprint_of, part_bytes
from recorder.objects.store import ObjectStore, Stored
from recorder.objects.url import BadUrl, read_url

BIG = os.urandom(1 << 20) * 18 + b"end"
"""More than two parts."""


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with bucket_server() as server:
        yield server


class Store(Bucket):
    """An empty bucket, and the store that is a folder in it."""

    def __init__(self, server: Server) -> None:
        super().__init__(server, "a/prefix")
        self.store = self.at(f"{self.url}/")

    def at(self, url: str, **changes: str) -> ObjectStore:
        return ObjectStore(url, {**self.server.environ, **changes}, timeout_secs=2, retries=0)

    def parts_left(self) -> list[Any]:
        return self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])


@pytest.fixture
def bucket(running: Server) -> Iterator[Store]:
    yield Store(running)
    running.heal()


def put(store: ObjectStore, name: str, data: bytes, sha256: str = "", **options: Any) -> Stored:
    return store.put_content(
        name,
        lambda: [data[at : at + 1_000_000] for at in range(0, len(data), 1_000_000)],
        len(data),
        sha256,
        **options,
    )


@pytest.mark.parametrize("data", [b"", b"x" * 100, BIG], ids=["empty", "small", "in parts"])
def test_what_is_put_is_there(bucket: Store, data: bytes) -> None:
    """An object has the bytes that were put, and its size, ETag and checksum are what HEAD says of it."""
    stored = put(bucket.store, "one.zst", data)
    content = fingerprint_of([data], len(data))
    assert bucket.content() == {"one.zst": data}
    assert stored == bucket.store.head("one.zst")
    assert (stored.bytes, stored.sha256, stored.etag) == (len(data), content.sha256, f'"{content.etag}"')
    assert b"".join(bucket.store.stream("one.zst", etag=stored.etag)) == data
    assert bucket.store.url_of("one.zst") == f"s3://{bucket.name}/a/prefix/one.zst"
    assert not bucket.parts_left()
    # It was sent with a checksum that the store holds it against.
    head = bucket.client.head_object(Bucket=bucket.name, Key="a/prefix/one.zst", ChecksumMode="ENABLED")
    assert head["Metadata"] == {"sha256": content.sha256}


def test_nothing_is_put_twice_and_nothing_replaced(bucket: Store) -> None:
    """An object that is there with the same content is left alone, one with other content is named and left alone."""
    first = put(bucket.store, "one", b"the same")
    bucket.server.requests.clear()
    assert put(bucket.store, "one", b"the same") == first
    assert [line.split()[0] for line in bucket.server.requests] == ["HEAD"]
    for other in (b"not same", b"longer than that", BIG):
        with pytest.raises(
            ObjectDiffers, match=r"a/prefix/one has other content.*delete it there or use another prefix"
        ):
            put(bucket.store, "one", other)
    assert bucket.content() == {"one": b"the same"}
    assert bucket.store.put("one", b"replaced").bytes == 8
    assert bucket.content() == {"one": b"replaced"}


def test_an_object_that_comes_meanwhile_is_not_replaced(bucket: Store) -> None:
    """Between looking and putting, another program puts an object of the name: it stays."""

    def come(request: Request) -> None:
        if request.method == "PUT":
            bucket.server.faults.clear()
            bucket.client.put_object(Bucket=bucket.name, Key="a/prefix/one", Body=b"theirs")

    bucket.server.faults.append(come)
    with pytest.raises(ObjectDiffers):
        put(bucket.store, "one", b"ours")
    assert bucket.content() == {"one": b"theirs"}


def test_list_read_and_delete(bucket: Store) -> None:
    """Names are those below the URL; what does not exist is None to look at, an error to read, and nothing to delete."""
    for name in ("a.ndjson", "day/b.ndjson", "day/c+d e.ndjson"):
        bucket.store.put(name, name.encode())
    bucket.client.put_object(Bucket=bucket.name, Key="a/prefix-of-others/x", Body=b"")
    assert sorted(found.name for found in bucket.store.list()) == [
        "a.ndjson",
        "day/b.ndjson",
        "day/c+d e.ndjson",
    ]
    assert [found.bytes for found in bucket.store.list("day/")] == [12, 16]
    assert bucket.store.read("day/c+d e.ndjson") == b"day/c+d e.ndjson"
    assert b"".join(bucket.store.stream("a.ndjson", begin=2)) == b"ndjson"
    bucket.store.delete("a.ndjson")
    bucket.store.delete("a.ndjson")
    assert bucket.store.head("a.ndjson") is None
    with pytest.raises(ObjectMissing, match=f"s3://{bucket.name}/a/prefix/a.ndjson does not exist"):
        bucket.store.read("a.ndjson")
    etag = bucket.store.put("b", b"1").etag
    bucket.store.put("b", b"2")
    with pytest.raises(ObjectDiffers, match="another one has taken its place"):
        list(bucket.store.stream("b", etag=etag))


def test_what_is_not_what_it_was_is_not_put(bucket: Store) -> None:
    """Content without its checksum, or that changes while it is sent, never becomes an object, nor parts of one."""
    with pytest.raises(Altered, match="not what it was when it was sealed"):
        put(bucket.store, "one", b"rotten", sha256="0" * 64)
    for shorter in (b"less", BIG[:-2_000_000]):
        reads = iter([[shorter + b"x" * 2_000_000], [shorter]])
        with pytest.raises(Altered, match="changed while it was put"):
            bucket.store.put_content("one", lambda reads=reads: next(reads), len(shorter) + 2_000_000)
    assert not bucket.content()
    assert not bucket.parts_left()


def test_a_disk_that_fails_is_not_the_store(bucket: Store, tmp_path: Path) -> None:
    """A file that cannot be read is an error of the disk; half of it in parts is taken back."""

    def failing() -> Iterator[bytes]:
        yield BIG[: 9 << 20]
        raise OSError(5, "Input/output error")

    reads = iter([[BIG], failing()])
    with pytest.raises(OSError, match="Input/output error"):
        bucket.store.put_content("one", lambda: next(reads), len(BIG))
    with pytest.raises(FileNotFoundError):
        bucket.store.put_file("one", tmp_path / "nothing")
    assert not bucket.content()
    assert not bucket.parts_left()


def test_what_pace_raises_ends_the_sending(bucket: Store) -> None:
    """Whoever is to stop raises between two blocks: nothing is left of the object."""

    class Stop(Exception):
        pass

    sent = []

    def pace(count: int) -> None:
        sent.append(count)
        if sum(sent) > 10 << 20:
            raise Stop

    with pytest.raises(Stop):
        put(bucket.store, "one", BIG, pace=pace)
    assert not bucket.content()
    assert not bucket.parts_left()


def _of(method: str, response: Callable[[], Response]) -> Callable[[Request], Response | None]:
    return lambda request: response() if request.method == method else None


@pytest.mark.parametrize(
    ("response", "kind", "words"),
    [
        (lambda: error(403, "AccessDenied"), StoreRefused, "AccessDenied: the key may not do that: .*docs/object-store.md"),
        (lambda: error(403, "SignatureDoesNotMatch"), StoreRefused, "correct AWS_ACCESS_KEY_ID"),
        (lambda: error(403, "RequestTimeTooSkewed"), StoreRefused, "the clock of this machine"),
        (lambda: error(400, "ExpiredToken"), StoreRefused, "credentials have expired"),
        (
            lambda: error(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"),
            StoreRefused,
            "set AWS_REGION to eu-west-1",
        ),
        (lambda: error(301, "PermanentRedirect"), StoreRefused, "in another region"),
        (lambda: error(400, "BadDigest"), StoreAway, "received other content than was sent"),
        (lambda: error(503, "SlowDown"), StoreAway, "busy or out of order .SlowDown"),
        (lambda: error(500, "InternalError"), StoreAway, "busy or out of order"),
        (lambda: Response("bad gateway", 502), StoreAway, "busy or out of order .502"),
        (lambda: error(418, "Teapot"), StoreRefused, "answers 418 Teapot"),
    ],
)  # fmt: skip
def test_refusals_say_what_to_do(
    bucket: Store, response: Callable[[], Response], kind: type[StoreError], words: str
) -> None:
    """Each answer of a store is a kind of error that says whether to try again or what to change, and the URL."""
    bucket.server.faults.append(_of("PUT", response))
    with pytest.raises(StoreError, match=words) as raised:
        put(bucket.store, "one", b"data")
    assert type(raised.value) is kind
    assert f"s3://{bucket.name}/a/prefix/one" in str(raised.value)
    assert "made-up-secret" not in str(raised.value)
    assert not bucket.content()


def test_what_cannot_be_reached(bucket: Store) -> None:
    """No bucket, no host, nobody who listens, no answer, a connection that is cut: each says so."""
    with pytest.raises(StoreRefused, match="NoSuchBucket: there is no such bucket"):
        put(bucket.at("s3://nothing-here/x"), "one", b"data")
    with pytest.raises(StoreRefused, match="cannot list s3://nothing-here/x: NoSuchBucket"):
        list(bucket.at("s3://nothing-here/x").list())
    with pytest.raises(StoreAway, match="the name of its host is not known"):
        put(bucket.at("s3://bucket/x", AWS_ENDPOINT_URL="http://nowhere.invalid"), "one", b"data")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(StoreAway, match="did not answer in time"):
            ObjectStore(
                "s3://bucket/x",
                {**bucket.server.environ, "AWS_ENDPOINT_URL": address},
                timeout_secs=0.2,
                retries=0,
            ).head("one")
    with pytest.raises(StoreAway, match="Connection refused"):
        put(bucket.at("s3://bucket/x", AWS_ENDPOINT_URL=address), "one", b"data")
    bucket.server.faults.append(lambda request: request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR))
    with pytest.raises(StoreAway, match="the connection was cut"):
        put(bucket.store, "one", b"data")


def test_a_store_that_lies(bucket: Store) -> None:
    """Another ETag than was given, half of the content, another content of the same size, and nothing at all are told."""

    def other_etag(request: Request, response: Response) -> None:
        if request.method == "HEAD" and response.status_code == 200:
            response.headers["ETag"] = '"0123456789abcdef0123456789abcdef"'

    bucket.server.alterations.append(other_etag)
    with pytest.raises(ObjectDiffers, match=r"its ETag is .0123456789abcdef.* in place of"):
        put(bucket.store, "etag", b"data")
    bucket.server.heal()

    def instead(body: bytes) -> Callable[[Request], Response | None]:
        def fault(request: Request) -> Response | None:
            if request.method == "PUT" and request.path.endswith(("half", "other")):
                key = request.path.removeprefix(f"/{bucket.name}/")
                bucket.server.faults.clear()
                metadata = {"sha256": request.headers["x-amz-meta-sha256"]}
                bucket.client.put_object(Bucket=bucket.name, Key=key, Body=body, Metadata=metadata)
                made = bucket.client.head_object(Bucket=bucket.name, Key=key)
                return Response("", 200, {"ETag": made["ETag"]})
            return None

        return fault

    for name, body in (("half", b"da"), ("other", b"dada")):
        bucket.server.faults.append(instead(body))
        with pytest.raises(ObjectDiffers, match=f"{name} has other content"):
            put(bucket.store, name, b"data")
    # Of its own half there is no doubt what it was to be. The next attempt makes it whole.
    assert put(bucket.store, "half", b"data").bytes == 4
    with pytest.raises(ObjectDiffers, match="other has other content"):
        put(bucket.store, "other", b"data")
    bucket.server.faults.append(_of("PUT", lambda: Response("", 200, {"ETag": '"1"'})))
    with pytest.raises(StoreAway, match="was put, and is not there"):
        put(bucket.store, "nothing", b"data")


def test_an_etag_that_is_not_made_of_the_content(bucket: Store) -> None:
    """Where the ETag proves nothing, as with keys of KMS, the object is read back once; what is other content is told."""

    def opaque(request: Request, response: Response) -> None:
        if "ETag" in response.headers:
            response.headers["ETag"] = '"opaque"'

    bucket.server.alterations.append(opaque)
    bucket.server.faults.append(lambda request: request.environ.pop("HTTP_IF_MATCH", None) and None)
    assert put(bucket.store, "one", b"data").etag == '"opaque"'
    assert [line.split()[0] for line in bucket.server.requests if "/one" in line] == [
        "HEAD",
        "PUT",
        "HEAD",
        "GET",
    ]


def test_a_body_that_ends_early_is_no_object(bucket: Store) -> None:
    """A read that is cut short raises; it never ends as if that were all."""
    bucket.store.put("one", BIG)

    def cut(request: Request) -> Response | None:
        if request.method != "GET":
            return None
        response = Response(
            BIG[:-1000], 200, {"ETag": '"x"', "Last-Modified": "Sun, 29 Nov 2026 06:30:02 GMT"}
        )
        response.headers["Content-Length"] = str(len(BIG))
        return response

    bucket.server.faults.append(cut)
    with pytest.raises(StoreAway, match="cannot read"):
        bucket.store.read("one")


def test_a_folder_stands_for_a_bucket(tmp_path: Path) -> None:
    """file:// has the same promises; a folder that is not there, as where nothing is mounted, is not made."""
    with pytest.raises(ConfigError, match="make it, or mount"):
        ObjectStore(f"file://{tmp_path}/missing")
    store = ObjectStore(f"file://{tmp_path}")
    for name, data in (("day/one", b"data"), ("two", BIG)):
        stored = put(store, name, data)
        assert (tmp_path / name).read_bytes() == data
        found = store.head(name)
        assert found is not None
        assert found._replace(sha256=stored.sha256) == stored
        assert put(store, name, data) == stored
        with pytest.raises(ObjectDiffers):
            put(store, name, data[:-1] + b"?")
    assert sorted(found.name for found in store.list()) == ["day/one", "two"]
    assert store.read("day/one") == b"data"
    assert store.head("three") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://bucket/x", "one of s3://"),
        ("bucket/prefix", "one of s3://"),
        ("s3:/typo", "must name a bucket"),
        ("s3://", "must name a bucket"),
        ("s3://b/x", "names a bucket 'b'"),
        ("s3://a bucket/x", "names a bucket 'a bucket'"),
        ("s3://key:secret@bucket/x", "credentials are for the environment"),
        ("s3://bucket/x?versions", "no user, query or fragment"),
        ("s3://bucket/a//b", "between single slashes"),
        ("s3://bucket/../b", "must have a prefix"),
        ("file://folder", "by its whole path"),
        ("file:///", "by its whole path"),
    ],
)
def test_urls_that_cannot_be_used(text: str, words: str) -> None:
    """A URL that is none says what it must be, before anything is sent."""
    with pytest.raises(BadUrl, match=words):
        read_url(text)
    with pytest.raises(ConfigError, match=words):
        ObjectStore(text, {})


@pytest.mark.parametrize(
    "text", ["s3://bucket", "s3://bucket/a/b", "gs://bucket/a", "az://container", "file:///mnt/a"]
)
def test_urls_have_one_spelling(text: str) -> None:
    """A URL is written in one way, whatever slash it ends with."""
    assert str(read_url(text)) == str(read_url(f"{text}/")) == text


@pytest.mark.parametrize("block", [1_000, 999_983, PART_BYTES, 2 * PART_BYTES + 1])
@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES])
def test_fingerprints_do_not_depend_on_blocks(size: int, block: int) -> None:
    """However content is cut into blocks, its fingerprint is the same: that of S3 for an object in parts of a size."""
    data = BIG[:size]
    found = fingerprint_of((data[at : at + block] for at in range(0, len(data), block)), len(data))
    assert found == fingerprint_of([data], len(data))
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.etag.endswith(f"-{-(-size // PART_BYTES)}") is (size > PART_BYTES)


@given(st.integers(0, 5 * 2**40))
def test_every_object_fits_in_the_parts_that_s3_takes(size: int) -> None:
    """Up to S3's own limit of 5 TiB, an object has fewer than 10,000 parts, each a multiple of the smallest."""
    assert size <= part_bytes(size) * 9_000
    assert part_bytes(size) % PART_BYTES == 0
