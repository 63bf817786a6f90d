"""Clients whose past is older than memory: it is read from the archive, on threads, a little ahead of each of them."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

from recorder.archive.block_cache import BlockSource
from recorder.archive.onward import BLOCK_BYTES, Onward, Shared
from recorder.archive.wanted import Asked, Found, Lead, Piece, Place
from recorder.bus import Batch, Mark
from recorder.frames import PAYLOAD_BYTES_MAX
from recorder.polygon.clusters import CLUSTERS
from recorder.polygon.events import EVERY_CLUSTER, Decoder
from recorder.polygon.rows import fragment_of
from recorder.servers.delivery import arrays
from recorder.servers.past.entry import told_place
from recorder.servers.port import Where

THREADS: Final = 2
"""Threads that read for all clients of this process."""
READERS_MAX: Final = 4
"""Clients that are read for at once; each has files open, and blocks in memory. The others wait."""
TURN_NS: Final = 10_000_000_000
"""After this time, a client that is read for lets one go first that waits."""
LOOK_NS: Final = 100_000_000
"""Time between two looks at a file in which there was nothing more."""
_BATCHES_MAX: Final = 16
"""Pieces whose frame, and what it was decoded to, is kept for clients that are near each other."""


_Result = tuple[Found | list[Piece], Place, Counter[BlockSource]]


class ColdReader:
    """What one client reads of the archive. Nothing here waits: blocks are asked for, and are there in a later turn."""

    def __init__(self, onward: Onward, wanted: Place | Asked | Lead | int, *, partial: bool) -> None:
        self.found: Found | None = None
        """What the archive has of it; None until that is known."""
        self.lost = ""
        """Why it cannot go on; empty while it can."""
        self.pieces: deque[Piece] = deque()
        """What has been read, and not been taken."""
        self.turn_ns = 0
        """Since when it is being read for."""
        self.sources: Counter[BlockSource] = Counter()
        """Where the blocks came from that were read for it; whoever has a place for that puts it here."""
        self._onward = onward
        self._begin: tuple[Place | Asked | Lead | int, bool] | None = (wanted, partial)
        self._place: Place | None = None
        """How far has been read."""
        self._taken: Where = (-1, 0)
        self._future: Future[_Result] | None = None
        self._bytes_ahead = 0
        self._look_due_ns = 0

    @property
    def is_busy(self) -> bool:
        """Whether a thread is at work for it, or about to be."""
        return self._future is not None

    @property
    def next(self) -> Where:
        """Where the next record is to be found that has not been taken."""
        return (self.pieces[0].run_number, self.pieces[0].first_seq) if self.pieces else self._taken

    @property
    def place(self) -> Place | None:
        """Everything up to there has been taken; None before it is known where it begins."""
        return self.pieces[0].place if self.pieces else self._place

    @property
    def seq(self) -> int | None:
        """The number up to which everything of the present run has been taken; None while an earlier run is read."""
        place = self.place
        return place.seq if place is not None and place.run_id == self._onward.epoch else None

    def take(self) -> Piece:
        """Return the next piece, which counts as taken."""
        piece = self.pieces.popleft()
        self._bytes_ahead -= piece.size
        self._taken = (piece.run_number, piece.last_seq + 1)
        return piece

    def put_back(self, piece: Piece) -> None:
        """Put the rest of a piece back, which has not been taken after all."""
        self.pieces.appendleft(piece)
        self._bytes_ahead += piece.size

    def look(self, now_ns: int) -> bool:
        """Look whether a thread has brought something; return whether it has."""
        future = self._future
        if future is None or not future.done():
            return False
        self._future = None
        try:
            result, place, sources = future.result()
        except Exception as error:  # the client is told; most are `Lost`
            self.lost = str(error) or repr(error)
            return True
        self._place = place
        self.sources.update(sources)
        if isinstance(result, Found):
            self.found, self._begin = result, None
            return True
        self.pieces += result
        self._bytes_ahead += sum(piece.size for piece in result)
        if not result:
            self._look_due_ns = now_ns + LOOK_NS
        return bool(result)

    def ask(self, executor: Executor, now_ns: int, wake: Callable[[], None]) -> None:
        """Have a thread read more, unless one is at work, enough is there, or there was nothing a moment ago."""
        is_enough = self._bytes_ahead >= BLOCK_BYTES or now_ns < self._look_due_ns
        if self._future is None and not self.lost and not is_enough:
            self._future = executor.submit(self._work)
            self._future.add_done_callback(lambda _: wake())

    def rest(self) -> None:
        """Let go of files until more is asked for. No thread may be at work."""
        self._onward.rest()

    def close(self) -> None:
        """Read no more."""
        if self._future is not None:
            self._future.cancel()

    def _work(self) -> _Result:
        onward = self._onward
        result: Found | list[Piece]
        if self._begin is not None:
            wanted, partial = self._begin
            result = onward.begin(wanted, partial=partial) or []
        else:
            result = onward.read()
        sources = onward.sources.copy()
        onward.sources.clear()  # what reads on counts in there
        return result, onward.place, sources

    def __repr__(self) -> str:
        return f"ColdReader({self.next}, {len(self.pieces)} pieces ahead)"


class ColdReaders:
    """All that read the archive in this process, `READERS_MAX` at a time, in turn."""

    def __init__(self, manifest: Path, epoch: str, executor: Executor | None = None) -> None:
        """`epoch` names the run at work; `executor` is for tests, in place of threads of its own."""
        self._manifest = manifest
        self._epoch = epoch
        self._shared = Shared()
        self._given = executor
        self._threads: ThreadPoolExecutor | None = None
        self._active: list[ColdReader] = []
        self._waiting: deque[ColdReader] = deque()
        self._decoders: dict[str, Decoder] = {}
        self._batches: OrderedDict[tuple[Place, int], Batch] = OrderedDict()
        """By the place behind which each is, and the number of its last record."""

    def open(self, wanted: Place | Asked | Lead | int, *, partial: bool) -> ColdReader:
        """Begin to read what came behind a place, or from a time on (Unix ms); with `partial`, or else what there is."""
        self._shared.proofs.is_over = False
        onward = Onward(self._manifest, self._epoch, self._shared)
        reader = ColdReader(onward, wanted, partial=partial)
        self._waiting.append(reader)
        return reader

    def ahead_of(self, reader: ColdReader) -> int:
        """Return how many are before this one; 0 where it is its turn."""
        return self._waiting.index(reader) + len(self._active) if reader in self._waiting else 0

    def work(self, reader: ColdReader, now_ns: int, wake: Callable[[], None], *, has_room: bool) -> bool:
        """Take what was read for one, and have more read; return whether something came. `wake` is called on a thread."""
        self._choose(now_ns)
        has_come = reader.look(now_ns)
        if has_room and reader in self._active:
            reader.ask(self._executor, now_ns, wake)
            has_come = reader.look(now_ns) or has_come
        return has_come

    def close(self, reader: ColdReader) -> None:
        """Read no more for one."""
        reader.close()
        with suppress(ValueError):
            self._active.remove(reader)
        with suppress(ValueError):
            self._waiting.remove(reader)
        if not self._active and not self._waiting:
            self._batches.clear()
            self._shared.cache.clear()

    def batch(self, piece: Piece) -> Batch:
        """Return records as a batch whose frames are made anew of the events, for all clients that are sent these."""
        key = piece.place, piece.last_seq
        batch = self._batches.get(key)
        if batch is None:
            batch = self._batches[key] = self._make_batch(piece)
            if len(self._batches) > _BATCHES_MAX:
                self._batches.popitem(last=False)
        return batch

    def _make_batch(self, piece: Piece) -> Batch:
        cluster = piece.cluster
        decoder = self._decoders.get(cluster)
        if decoder is None:
            decoder = Decoder(cluster if cluster in CLUSTERS else EVERY_CLUSTER)
            self._decoders[cluster] = decoder
        frames = [piece.records.frame(0, len(piece.records))]
        if len(frames[0]) > PAYLOAD_BYTES_MAX:
            frames = arrays(list(map(fragment_of, piece.payloads)))
        marks = [Mark(len(frames), told_place(Place(piece.run_id, piece.last_seq)))]
        return Batch(cluster, piece.received_ms * 1_000_000, frames, decoder, read_ns=0, marks=marks)

    def shut_down(self) -> None:
        """End the threads once they have done what they are at."""
        self._shared.proofs.is_over = True
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    def _choose(self, now_ns: int) -> None:
        """Let those that wait have their turn."""
        if self._waiting and len(self._active) >= READERS_MAX:
            for reader in self._active:
                if now_ns - reader.turn_ns >= TURN_NS and not reader.is_busy:
                    reader.rest()
                    self._active.remove(reader)
                    self._waiting.append(reader)
                    break
        while self._waiting and len(self._active) < READERS_MAX:
            reader = self._waiting.popleft()
            reader.turn_ns = now_ns
            self._active.append(reader)

    @property
    def _executor(self) -> Executor:
        if self._given is not None:
            return self._given
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="archive-reader")
        return self._threads

    def __repr__(self) -> str:
        return f"ColdReaders({len(self._active)} read, {len(self._waiting)} wait)"
