"""Prints what a recorder with SINK=zmq publishes, one record a line.

    python examples/zmq_sub.py                        # every record; the recorder connects to us, as it does by default
    python examples/zmq_sub.py T:AAPL 'Q:*'           # Apple's trades and all quotes
    python examples/zmq_sub.py --connect              # the recorder runs with ZMQ_BIND=true
    python examples/zmq_sub.py T:AAPL | jq .payload.p

Exactly one side binds. It needs pyzmq and nothing of the recorder. A message has two frames: the topic, which is
ZMQ_TOPIC_PREFIX and then `type:symbol`, and the record as JSON without a line end.

Who subscribes to everything sees a loss itself: `seq` has a hole. This program tells of holes on stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys

import zmq


def main() -> int:
    """Subscribe and print until interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("topics", nargs="*", help="as T:AAPL, T:* or *; default: everything")
    parser.add_argument(
        "--endpoint",
        default=os.environ.get("ZMQ_SUB_ENDPOINT") or "tcp://127.0.0.1:5556",
        help="default: ZMQ_SUB_ENDPOINT of the environment, else tcp://127.0.0.1:5556; now %(default)s",
    )
    parser.add_argument("--connect", action="store_true", help="connect to the recorder; default: bind")
    parser.add_argument("--prefix", default="", help="the recorder's ZMQ_TOPIC_PREFIX")
    parser.add_argument("--count", type=int, help="end after so many records")
    options = parser.parse_args()
    topics = options.topics or ["*"]

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.rcvhwm = 100_000  # a burst waits here; libzmq's own 1,000 are little
    for topic in topics:
        socket.subscribe((options.prefix + topic.removesuffix("*")).encode())
    try:
        if options.connect:
            socket.connect(options.endpoint)
        else:
            socket.bind(options.endpoint)
        show(socket, options.prefix, topics, options.count)
    except zmq.ZMQError as error:
        print(f"{options.endpoint}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # `| head` has seen enough; Python's own flush at exit must not complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        socket.close(linger=0)
        context.term()
    return 0


def show(socket: zmq.Socket[bytes], prefix: str, topics: list[str], count: int | None) -> None:
    """Print records, `count` of them or for ever."""
    out = sys.stdout.buffer
    # ZMQ compares beginnings: a subscriber to T:A gets T:AAPL too.
    whole = {(prefix + topic).encode() for topic in topics if not topic.endswith("*")}
    beginnings = tuple((prefix + topic[:-1]).encode() for topic in topics if topic.endswith("*"))
    expected = 0
    shown = 0
    while shown != count:
        try:
            topic, record = socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:  # nothing waits: show what there is, then sleep
            out.flush()
            socket.poll(500)  # a signal that comes just before the wait is noticed after it
            continue
        if topic not in whole and not topic.startswith(beginnings):
            continue
        out.write(record + b"\n")
        shown += 1
        if "*" in topics:
            seq = json.loads(record)["seq"]
            if expected and seq > expected:
                print(f"lost: seq {expected} to {seq - 1}", file=sys.stderr)
            expected = seq + 1
    out.flush()


if __name__ == "__main__":
    sys.exit(main())
