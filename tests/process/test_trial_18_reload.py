"""Trial 18: tokens, certificate, limits, origins and key change again and again under load, and nobody else notices."""

from __future__ import annotations

import signal
import ssl
import time
from pathlib import Path

import pytest
from certificates import self_signed
from commands import KEY, Running, live_settings, running, simulating
from listening import Listener, listening
from oracle import account, follow, read_manifest, read_sent, verified
from trials import report, scale
from waiting import eventually_sync

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(180, 3600))]

TURNS = scale(4, 300)
STAYS = "stays-0123456789"
NEXT_KEY = "next-key-0123456789"
RATE = scale("1000", "20000")


class Files:
    """The files of a recorder as an operator and certbot keep them: the certificate is a link to the newest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder / "api-key"
        self.tokens = folder / "tokens"
        self.settings = folder / "settings.env"
        self.chain, self.chain_key = folder / "fullchain.pem", folder / "privkey.pem"
        self.pairs = [self_signed(folder, name) for name in ("one", "two")]
        self.trusts = [ssl.create_default_context(cafile=str(chain)) for chain, _ in self.pairs]
        self.key.write_text(KEY)
        self.write(0)

    def write(self, turn: int) -> None:
        """Change all of them, each as a whole."""
        self._replace(self.tokens, f"stays:{STAYS}\nturn-{turn}:{token_of(turn)}\n")
        self._replace(
            self.settings,
            f"CLIENTS_MAX={100 + turn}\nALLOWED_ORIGINS=https://app-{turn}.example.com\nSUBSCRIPTION_STOCKS=T.*,Q.*\n",
        )
        for link, target in zip((self.chain, self.chain_key), self.pairs[turn % 2], strict=True):
            fresh = link.with_suffix(".fresh")
            fresh.symlink_to(target)
            fresh.rename(link)

    @staticmethod
    def _replace(path: Path, text: str) -> None:
        fresh = path.with_suffix(".fresh")
        fresh.write_text(text)
        fresh.rename(path)

    def variables(self) -> dict[str, str]:
        """Return what is told to the recorder of them."""
        return {
            "ENV_FILE": str(self.settings),
            "POLYGON_API_KEY_FILE": str(self.key),
            "AUTH_TOKENS_FILE": str(self.tokens),
            "TLS_CERT_FILE": str(self.chain),
            "TLS_KEY_FILE": str(self.chain_key),
        }


def token_of(turn: int) -> str:
    """Return the token that is good for one turn."""
    return f"turn-{turn}-0123456789"


def changes(recorder: Running, subject: str) -> float:
    """Return how many changes of a subject were taken."""
    return recorder.metric(f'polygon_reload_changes_total{{subject="{subject}"}}')


@pytest.mark.parametrize("workers", ["0", "2"])
def test_reloads_under_load(tmp_path: Path, workers: str) -> None:
    """Every turn takes effect, by SIGHUP or by itself; one session upstream, every byte in the archive and at a client."""
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    files = Files(tmp_path)
    load = ("--cluster", "stocks", "--rate", RATE, "--key", KEY, "--key", NEXT_KEY)
    with simulating(*load, "--log", str(log), cwd=tmp_path) as port:
        settings = live_settings(port, folder, SERVE_WORKERS=workers, **files.variables())
        del settings["POLYGON_API_KEY"]
        with running("run", cwd=tmp_path, **settings) as recorder:
            url = f"wss://localhost:{recorder.port_of('filtered')}/stocks"
            begun = time.monotonic()
            with listening(url, "T.*,Q.*", STAYS, files.trusts[0]) as good:
                slowest_secs = play(recorder, files, url)
                secs = time.monotonic() - begun
                assert recorder.metric("polygon_reload_failures_total") == 0
                assert recorder.metric("polygon_reconnects_total") == 0
                assert good.close_code is None
                assert recorder.stop() == 0
                eventually_sync(lambda: good.close_code, "the close")
    assert good.close_code == 1012
    stream = follow(read_sent(log).events, good.events)
    assert stream.faultless, stream
    found = account(log, folder)
    assert found.faultless, found
    assert found.lost == sum(loss.count for loss in found.losses if loss.explained == "after the end")
    assert len(read_manifest(folder, "session_opened")) == 1
    verified(folder)
    where = f"{workers} worker processes" if workers != "0" else "the recording process"
    report(
        18,
        fault=f"reload, served by {where}",
        injected="tokens file, certificate and key (links to other files), limits, origins and the upstream key change "
        f"together, at {int(RATE):,} events/s; every other time SIGHUP, else nothing but the files",
        holds="each change counts for the next client; clients of removed tokens are closed with 1008, no other is; one "
        "session upstream; nothing missing in the archive or at a client that stays",
        figure=f"{TURNS} reloads of everything in {secs:.0f} s, the slowest {slowest_secs:.1f} s after the files; "
        f"{found.recorded:,} records and {stream.got:,} events to the client, 0 missing; 1 session",
    )


def play(recorder: Running, files: Files, url: str) -> float:
    """Change everything turn after turn, with a client of each turn; return how long the slowest reload took."""
    slowest_secs = 0.0
    client = Listener(url, "T.*", token_of(0), files.trusts[0])
    try:
        for turn in range(1, TURNS + 1):
            files.write(turn)
            begun = time.monotonic()
            if turn % 2:
                recorder.send(signal.SIGHUP)
            for subject in ("tokens", "certificate", "settings"):
                eventually_sync(lambda subject=subject: changes(recorder, subject) >= turn, f"the {subject}")  # type: ignore[misc]
            slowest_secs = max(slowest_secs, time.monotonic() - begun)
            eventually_sync(lambda: client.close_code, "the end of the client of a removed token")
            assert (client.close_code, client.close_reason) == (1008, "this token is no longer valid")
            client.close()
            with pytest.raises(ssl.SSLCertVerificationError):
                Listener(url, "T.*", token_of(turn), files.trusts[(turn + 1) % 2])
            client = Listener(url, "T.*", token_of(turn), files.trusts[turn % 2])
        files.key.write_text(NEXT_KEY)
        eventually_sync(lambda: changes(recorder, "key") == 1, "the key")
    finally:
        client.close()
    return slowest_secs
