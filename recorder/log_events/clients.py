"""Log events of the ports, of their clients and of the bars."""

from __future__ import annotations

from typing import Final

from recorder.log_events.event import Group, LogEvent

_OPEN_FILES: Final = "raise the limit (`ulimit -n`, `LimitNOFILE`), or lower `CLIENTS_MAX`"

CLIENTS: Final = Group(
    "polygon_clients",
    "The ports: firehose, filtered, bars, ZeroMQ, metrics; their clients and workers; NATS, Kafka.",
    (
        LogEvent(
            "client_connected",
            "debug",
            "a client is connected, and has to authenticate",
            "A WebSocket is open; `agent` is what the client calls itself.",
        ),
        LogEvent(
            "handshake_refused",
            "debug",
            "a request is refused before it becomes a WebSocket",
            "`status` and `reason` are the answer of HTTP: a wrong path, a page from elsewhere, a name that is not ours.",
            "404: the path names a cluster of this recorder; 403, 421: `ALLOWED_ORIGINS`, `ALLOWED_HOSTS`",
        ),
        LogEvent(
            "client_request",
            "debug",
            "a client asks for something",
            "`action` is `auth`, `subscribe` or `unsubscribe`; `topics` has the first of them. Tokens are not logged.",
        ),
        LogEvent(
            "client_request_refused",
            "debug",
            "a request of a client is refused",
            "`reason` is what the client was told.",
            "correct the client",
        ),
        LogEvent(
            "client_joined",
            "info",
            "a client is authenticated",
            "A client showed a valid token; `token` is its name.",
        ),
        LogEvent(
            "client_left",
            "info",
            "a client is gone",
            "A connection ended: `reason`, its time, what the client got. Without `token`, it never authenticated.",
            "`slow_consumer` means that the client must read faster; [questions](faq.md)",
        ),
        LogEvent(
            "draining",
            "info",
            "new clients are refused, so that a balancer gives them to another recorder",
            "SIGTERM came and `DRAIN_SECS` is set, or SIGUSR2: `trigger`. For `drain_secs` the `clients` that are here are "
            "served as usual; then they are closed with 1012, one after the other.",
        ),
        LogEvent(
            "drained",
            "info",
            "every client was told to go to another recorder",
            "`clients` were closed in `spread_secs`. After SIGTERM the stop begins now; after SIGUSR2 the recorder works "
            "on, and takes clients again when SIGUSR2 comes once more.",
        ),
        LogEvent(
            "drain_ended",
            "info",
            "SIGUSR2: clients are taken again",
            "The drain that SIGUSR2 had begun is over.",
        ),
        LogEvent(
            "drain_kept",
            "info",
            "SIGUSR2: the recorder is about to stop, so no client is taken",
            "SIGUSR2 came while a stop waited for the drain: `reason` says who asked for it.",
        ),
        LogEvent(
            "nothing_to_drain",
            "info",
            "SIGUSR2: no client can be here",
            "SIGUSR2 came, and this recorder serves nobody.",
        ),
        LogEvent(
            "client_refused",
            "warning",
            "a client is refused",
            "A client showed no valid token; `reason` is what it was told.",
            "if the address is one of yours, correct its token; else close the port to it",
        ),
        LogEvent(
            "clients_dismissed",
            "info",
            "clients of removed tokens are disconnected",
            "Tokens were taken out of the settings while the recorder ran; their `clients` are closed with 1008.",
        ),
        LogEvent(
            "client_write_failed",
            "error",
            "a client was disconnected: writing to it failed",
            "A defect. The client may connect again; `error` has the traceback.",
            "report the traceback",
        ),
        LogEvent(
            "tls_handshake_failed",
            "debug",
            "a connection without a TLS handshake",
            "Somebody connected to a TLS port and did not speak TLS, or trusts another certificate.",
        ),
        LogEvent(
            "tcp_user_timeout_unavailable",
            "debug",
            "TCP_USER_TIMEOUT cannot be set here",
            "The operating system has no such option. A client that vanished is noticed by its pings instead.",
        ),
        LogEvent(
            "open_files_limit_low",
            "warning",
            "the limit of open files is too low for CLIENTS_MAX",
            "At the start: with `CLIENTS_MAX` clients, descriptors would run out.",
            _OPEN_FILES,
        ),
        LogEvent(
            "open_files_exhausted",
            "warning",
            "clients are refused: too many open files",
            "The last 64 descriptors (a third of a small limit) are for archive, exchange and page. New clients get 503; "
            "those beyond a limit that was lowered get 1013.",
            _OPEN_FILES,
        ),
        LogEvent(
            "accept_failed",
            "warning",
            "connections cannot be accepted",
            "The operating system refuses new connections, for want of descriptors or memory.",
            "raise `LimitNOFILE`",
        ),
        LogEvent(
            "metrics_connections_refused",
            "warning",
            "connections to METRICS_ADDR are refused",
            "Too many connections to the ops server are open; `reason` says which limit is reached.",
            "find out who holds them (`ss -tnp`)",
        ),
        LogEvent(
            "worker_started",
            "info",
            "a worker serves clients",
            "A process of `SERVE_WORKERS` is ready.",
        ),
        LogEvent(
            "worker_ended",
            "warning",
            "a worker ended; its clients have to reconnect",
            "`reason`: `slow` could not keep up, `silent` sent nothing, `ended` ended by itself. It is started again.",
            "[runbook](operations.md#alert-recorderworkerrestarts)",
        ),
        LogEvent(
            "worker_start_failed",
            "error",
            "a worker cannot be started",
            "The operating system starts no further process. The next try is in `retry_in_secs`.",
            "see the limits of processes, memory and open files (`ulimit -a`, `TasksMax`)",
        ),
        LogEvent(
            "access_log_not_written",
            "warning",
            "the access log cannot be written; its lines wait in memory, and clients are served all the same",
            "`error` says why, `waiting_bytes` how much waits. The file is tried again each second.",
            "make `ACCESS_LOG_DEST` writable before more than 16 MiB wait",
        ),
        LogEvent(
            "access_log_written_again",
            "info",
            "the access log is written again",
            "What waited is in the file. `dropped` is the number of lines that were lost in this run.",
        ),
        LogEvent(
            "access_log_lines_dropped",
            "error",
            "lines of the access log are lost",
            "The file could not be written for too long, or until the recorder stopped. What clients received meanwhile "
            "is in no file; `recorder audit` says how many lines are missing.",
            "make `ACCESS_LOG_DEST` writable; [the access log](access-log.md)",
        ),
        LogEvent(
            "access_log_rotated",
            "info",
            "a file of the access log is finished",
            "`file` is its name, before it is compressed.",
        ),
        LogEvent(
            "access_log_deleted",
            "info",
            "a file of the access log is deleted",
            "`because` says by which limit: `old` is `ACCESS_LOG_RETAIN_SECS`, `size` is `ACCESS_LOG_RETAIN_BYTES`.",
        ),
        LogEvent(
            "access_log_not_tidied",
            "warning",
            "files of the access log cannot be compressed or deleted",
            "They stay as they are, and are tried again ten minutes later.",
            "see the permissions and the free space of the folder of `ACCESS_LOG_DEST`",
        ),
        LogEvent(
            "access_log_defect",
            "error",
            "what a client received cannot be put into the access log",
            "A defect. Clients are served all the same; `error` has the traceback.",
            "report the traceback",
        ),
        LogEvent(
            "zmq_subscriber_slow",
            "error",
            "a subscriber is too slow: its queue is full, and it misses records until it has read half of it",
            "ZeroMQ drops records for this subscriber. `dropped_total` is their number.",
            "make the subscriber read faster, or raise `ZMQ_SND_HWM`; [ZeroMQ](zmq.md)",
        ),
        LogEvent(
            "zmq_subscriber_absent",
            "warning",
            "records are published to nobody",
            "No subscriber has been connected for `alone_secs`.",
            "start the subscriber, or see who must bind: `ZMQ_BIND`",
        ),
        LogEvent(
            "zmq_records_unread",
            "error",
            "a subscriber had not read everything when SHUTDOWN_TIMEOUT_SECS expired",
            "The stop did not wait longer. The subscriber misses what was in its queue.",
            "make the subscriber read faster, or raise `SHUTDOWN_TIMEOUT_SECS`",
        ),
        LogEvent(
            "nats_connected",
            "info",
            "frames go into the streams",
            "A connection to `server`, of `version`; every stream has been looked at, and what was missing is sent.",
        ),
        LogEvent(
            "nats_stream_made",
            "info",
            "a stream is made",
            "`stream` did not exist; it takes `subject`, with the limits of `NATS_MAX_BYTES` and `NATS_MAX_AGE_SECS`.",
        ),
        LogEvent(
            "nats_role",
            "info",
            "a recorder leads a stream, or follows the one that does",
            "`stream`, and whether this recorder `leads`. It appends what comes if it does; else it adds what `other` (host "
            "and run) has not got, and takes over when that one is silent.",
        ),
        LogEvent(
            "nats_filled",
            "warning",
            "the recorder that leads a stream has not got some events",
            "This recorder has received `events` in all that `other` had not appended to `stream` within "
            "`NATS_TAKEOVER_SECS`, and has appended them.",
            "see what the other one loses: its connection to the exchange, its machine; [NATS](nats.md)",
        ),
        LogEvent(
            "nats_interrupted",
            "error",
            "nothing can be appended to the NATS streams; it is tried again",
            "`failure` says why. Events wait in memory, up to `NATS_BUFFER_BYTES`. Until frames go into the streams again, "
            "only another kind of failure is logged.",
            "do what `failure` says; [NATS](nats.md)",
        ),
        LogEvent(
            "nats_symbols_interrupted",
            "error",
            "nothing can be appended to the streams of NATS_PER_SYMBOL; it is tried again",
            "`failure` says why. Events wait in memory, up to `NATS_BUFFER_BYTES` besides those of the other streams.",
            "do what `failure` says; [NATS](nats.md)",
        ),
        LogEvent(
            "nats_symbols_connected",
            "info",
            "events go into the streams of NATS_PER_SYMBOL again",
            "What was not acknowledged is sent over a connection to `server`, of `version`.",
        ),
        LogEvent(
            "nats_stream_gap",
            "error",
            "messages of a stream are gone before their time",
            "`reason`: the stream was `deleted`, `purged`, `rolled back` (its servers have lost what they had acknowledged) "
            "or `emptied` before this start. The next message says so in its header `Gap`, and begins with event "
            "`next_first`.",
            "find out who did it; readers that have not read the messages miss their events; [NATS](nats.md)",
        ),
        LogEvent(
            "nats_unacknowledged",
            "error",
            "events were not acknowledged by the NATS servers before the stop",
            "`events` were sent or about to be; they count as dropped, though some may be in the stream.",
            "see to the servers, or raise `SHUTDOWN_TIMEOUT_SECS`",
        ),
        LogEvent(
            "kafka_connected",
            "info",
            "events go into the Kafka topics",
            "There are `brokers` brokers. Every topic has been looked at, and what waited is sent.",
        ),
        LogEvent(
            "kafka_topic_made",
            "info",
            "a topic is made",
            "`topic` did not exist. How long its messages stay is the brokers' default.",
        ),
        LogEvent(
            "kafka_interrupted",
            "error",
            "nothing goes into the Kafka topics; it is tried again",
            "`failure` says why. Events wait in memory, up to `KAFKA_BUFFER_BYTES`. Until events go into the topics again, "
            "only another kind of failure is logged.",
            "do what `failure` says; [Kafka](kafka.md)",
        ),
        LogEvent(
            "kafka_producer_replaced",
            "warning",
            "events may be in a Kafka topic twice",
            "The brokers have lost what they had acknowledged, or do not know the producer any more: `failure`. Another one "
            "sends again what was under way (`parcels`), though some of it may be there. The numbers in it tell which.",
            "find out what happened to the brokers; [Kafka](kafka.md)",
        ),
        LogEvent(
            "kafka_unacknowledged",
            "error",
            "events were not acknowledged by the Kafka brokers before the stop",
            "`events` were sent or about to be; they count as dropped, though some may be in the topic.",
            "see to the brokers, or raise `SHUTDOWN_TIMEOUT_SECS`",
        ),
    ),
)

BARS: Final = Group(
    "polygon_bars",
    "The bars that the recorder builds.",
    (
        LogEvent(
            "bar_listener_failed",
            "error",
            "a port failed and misses these bars; all others got them",
            "A defect in what takes finished bars. `error` has the traceback.",
            "report the traceback",
        ),
    ),
)
