"""TLS of the servers: a certificate and its key work, and everything else is told by file."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest
from tools import tool

from recorder.errors import EXIT_CONFIG, ConfigError
from recorder.servers.tls import Pem, Tls, make_context


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `cert.pem`, its `key.pem`, and what operators mistake for them."""
    openssl = tool("openssl")
    folder = tmp_path_factory.mktemp("tls")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    curve = ("-pkeyopt", "ec_paramgen_curve:prime256v1")
    request = ("req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=localhost")
    names = ("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    run(*request, "-newkey", "ec", *curve, *names, "-keyout", "key.pem", "-out", "cert.pem")
    run("genpkey", "-algorithm", "EC", *curve, "-out", "other_key.pem")
    run("genpkey", "-algorithm", "RSA", "-out", "rsa_key.pem")
    run("pkey", "-in", "key.pem", "-aes128", "-passout", "pass:word", "-out", "encrypted_key.pem")
    run(*request, "-newkey", "rsa:512", "-keyout", "weak_key.pem", "-out", "weak_cert.pem")
    (folder / "torn_key.pem").write_bytes((folder / "key.pem").read_bytes()[:100])
    (folder / "empty.pem").touch()
    return folder


def pem_of(cert: Path, key: Path) -> Pem:
    """Read both files."""
    pem = Pem.read(str(cert), str(key))
    assert pem is not None
    return pem


def context_of(cert: Path, key: Path) -> ssl.SSLContext:
    """Make the server's context of both files."""
    return make_context(pem_of(cert, key))


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> str | None:
    """Let the two shake hands in memory; return the version they agree on."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
    ]
    waiting = list(sides)
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    assert not waiting, "the handshake did not end"
    return sides[1].version()


def test_no_files_mean_no_tls() -> None:
    """The servers speak plain ws then."""
    assert Pem.read(None, None) is None
    assert Tls(None).listening is None


def test_a_client_that_trusts_the_certificate_connects(folder: Path) -> None:
    """The chain and the key serve a verified connection, of TLS 1.3 where both sides have it."""
    server = context_of(folder / "cert.pem", folder / "key.pem")
    client = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    assert handshake(server, client) == "TLSv1.3"
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert handshake(server, client) == "TLSv1.2"


def test_old_versions_are_refused(folder: Path) -> None:
    """Nothing below TLS 1.2, whatever the machine's OpenSSL would allow."""
    server = context_of(folder / "cert.pem", folder / "key.pem")
    assert server.minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("cert", "key", "words"),
    [
        ("cert.pem", "other_key.pem", "TLS_KEY_FILE: {key}: is not the key of {cert}"),
        ("cert.pem", "rsa_key.pem", "TLS_KEY_FILE: {key}: is not the key of {cert}"),
        ("cert.pem", "cert.pem", "TLS_KEY_FILE: {key}: holds no private key (PEM)"),
        ("cert.pem", "torn_key.pem", "TLS_KEY_FILE: {key}: holds no private key (PEM)"),
        ("cert.pem", "empty.pem", "TLS_KEY_FILE: {key}: holds no private key (PEM)"),
        ("cert.pem", "encrypted_key.pem", "TLS_KEY_FILE: {key}: is encrypted; decrypt it"),
        ("cert.pem", "nowhere.pem", "TLS_KEY_FILE: {key}: cannot be read: No such file or directory"),
        ("cert.pem", ".", "TLS_KEY_FILE: {key}: cannot be read: Is a directory"),
        ("nowhere.pem", "key.pem", "TLS_CERT_FILE: {cert}: cannot be read: No such file or directory"),
        ("key.pem", "cert.pem", "TLS_CERT_FILE: {cert}: holds no certificate (PEM)"),
        ("empty.pem", "key.pem", "TLS_CERT_FILE: {cert}: holds no certificate (PEM)"),
        ("weak_cert.pem", "weak_key.pem", "TLS_CERT_FILE: {cert}: OpenSSL refuses it: ee key too small"),
    ],
)
def test_what_is_wrong_is_told_by_variable_and_file(folder: Path, cert: str, key: str, words: str) -> None:
    """The process ends with the status for settings; an encrypted key never asks on the terminal."""
    files = {"cert": str(folder / cert), "key": str(folder / key)}
    with pytest.raises(ConfigError) as caught:
        context_of(Path(files["cert"]), Path(files["key"]))
    assert str(caught.value).startswith(words.format(**files))
    assert caught.value.exit_status == EXIT_CONFIG
