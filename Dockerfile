# The recorder in a container; docs/container.md says how to run it.
#
#   docker build --build-arg ENABLE_ZMQ_SINK=true --tag recorder .

# The Python and the Debian that the tests run on. Built for the present with each fix of both: docker build --pull.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build

WORKDIR /build
# The native code is compiled here, so that the image itself has no compiler.
RUN command -v gcc \
    || { apt-get update --quiet=2 \
         && apt-get install --quiet=2 --no-install-recommends --yes gcc libc6-dev; }
# What the lock file names and nothing else, each file checked against its hash. Changes seldom, so it comes first.
COPY container/requirements.txt ./
RUN python -m venv /opt/recorder \
    && /opt/recorder/bin/pip download --no-cache-dir --disable-pip-version-check --progress-bar off \
        --require-hashes --no-deps --only-binary :all: --dest wheels --requirement requirements.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY man man
COPY native native
COPY recorder recorder
RUN CC=gcc RECORDER_NATIVE=yes /opt/recorder/bin/pip wheel --no-cache-dir --disable-pip-version-check --no-index \
        --find-links wheels --no-deps --wheel-dir wheels .
# What these sinks, and uploads, need is installed where they are true. The wheels are there by now, so another choice takes seconds.
ARG ENABLE_ZMQ_SINK=false
ARG ENABLE_NATS_SINK=false
ARG ENABLE_KAFKA_SINK=false
ARG ENABLE_UPLOADS=false
RUN set -eu; \
    extras=; \
    choose() { \
        case "$2" in \
            1|true|yes|on) extras="${extras:+${extras},}$3" ;; \
            0|false|no|off) ;; \
            *) echo "$1=$2 is neither true nor false" >&2; exit 1 ;; \
        esac; \
    }; \
    choose ENABLE_ZMQ_SINK "${ENABLE_ZMQ_SINK}" zmq; \
    choose ENABLE_NATS_SINK "${ENABLE_NATS_SINK}" nats; \
    choose ENABLE_KAFKA_SINK "${ENABLE_KAFKA_SINK}" kafka; \
    choose ENABLE_UPLOADS "${ENABLE_UPLOADS}" s3; \
    /opt/recorder/bin/pip install --no-cache-dir --disable-pip-version-check --no-index --find-links wheels \
        "polygon-recorder[${extras}]"; \
    /opt/recorder/bin/pip uninstall --yes --quiet --disable-pip-version-check setuptools pip


FROM ${BASE}

LABEL org.opencontainers.image.title="recorder" \
      org.opencontainers.image.description="Records Polygon.io (Massive.com) real-time market data and serves it" \
      org.opencontainers.image.licenses="MIT"

# The numbers are fixed: volumes keep them, and files of secrets are readable by them.
RUN groupadd --gid 10001 recorder \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/recorder --shell /usr/sbin/nologin recorder \
    && install -d --owner=10001 --group=10001 --mode=0750 /var/lib/recorder

COPY --from=build /opt/recorder /opt/recorder
COPY container/healthcheck.py /opt/recorder/healthcheck.py

# BIND_HOST and METRICS_ADDR keep their defaults: nothing is served beyond the container unless you say so.
ENV PATH=/opt/recorder/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    SINK=ndjson \
    NDJSON_DEST=/var/lib/recorder/polygon.ndjson

USER 10001:10001
WORKDIR /var/lib/recorder
VOLUME /var/lib/recorder
EXPOSE 8765 8767 8768 9898
STOPSIGNAL SIGTERM
# The server of METRICS_ADDR answers once the archive is repaired, which may take as long as after a crash with gigabytes.
HEALTHCHECK --interval=30s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python", "-I", "/opt/recorder/healthcheck.py"]
# In exec form, so that the recorder is PID 1 and gets the signals itself.
ENTRYPOINT ["recorder"]
CMD ["run"]
