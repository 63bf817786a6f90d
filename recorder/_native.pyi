"""The hot path in C: `native/module.c`, compiled where a compiler is. Only `recorder.native` imports it."""

from _typeshed import ReadableBuffer

def split(data: ReadableBuffer, limit: int, payloads: list[bytes], /) -> tuple[int, int]:
    """Append to `payloads` those of the whole plain WebSocket frames at the front of `data`.

    A plain frame is text or binary, a message of its own, unmasked, without RSV bits, at most `limit` bytes long. Return
    how many bytes these frames take, and the size of the odd frame behind them: 0 where what follows is not there whole.
    """

def index(data: ReadableBuffer, limit: int, /) -> tuple[int, int, int, int, int]:
    """Return what stands at the front of `data`, for those who pass frames on as they came.

    The bytes of whole plain text frames, the size of the odd frame behind them (as `split` does; a binary frame is odd
    here), how many frames they are, the payload bytes of the largest, and those of all.
    """
