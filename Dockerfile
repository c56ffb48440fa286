# Stage 1 compiles the wheel and fills a virtual environment; stage 2 takes the environment only.
# A machine whose pip needs settings or certificates of its own gives them as the secrets pip_conf and ca_bundle
# (docker build --secret id=pip_conf,src=...); without them nothing is mounted.
FROM debian:bookworm-slim AS build
# What Debian's stable release has, security fixes included: no versions to pin.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential ca-certificates python3-dev python3-pip python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# fasttail itself says which versions it takes.
# hadolint ignore=DL3013
RUN --mount=type=secret,id=pip_conf --mount=type=secret,id=ca_bundle \
    if [ -s /run/secrets/pip_conf ]; then export PIP_CONFIG_FILE=/run/secrets/pip_conf; fi \
 && pip wheel --no-cache-dir --wheel-dir /wheels ".[nats]" \
 && python3 -m venv --without-pip /opt/fasttail \
 && pip --python /opt/fasttail/bin/python install --no-cache-dir --no-index --find-links /wheels 'fasttail[nats]'

FROM debian:bookworm-slim
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin fasttail \
 && install -d -m 755 /data \
 && install -d -o 10001 -g 10001 -m 750 /var/lib/fasttail
COPY --from=build /opt/fasttail /opt/fasttail
# The commit is in the program too (fasttail --version); a label can only be told from outside.
ARG VERSION=unknown COMMIT=unknown
LABEL org.opencontainers.image.title=fasttail \
      org.opencontainers.image.description="Hyperliquid node files to WebSocket" \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$COMMIT
# An ordinary user: the node's folder, mounted on /data, must be readable for others or for this uid.
USER 10001:10001
# No limit for each address: behind the engine's NAT all peers have one.
ENV PATH=/opt/fasttail/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FASTTAIL_HOST=0.0.0.0 \
    FASTTAIL_PORT=8000 \
    FASTTAIL_MAX_CLIENTS_PER_IP=0 \
    FASTTAIL_STATE_DIR=/var/lib/fasttail
# Also without a volume of a name, and with --read-only, there is a place for the checkpoint.
VOLUME /var/lib/fasttail
EXPOSE 8000
STOPSIGNAL SIGTERM
# Where a linked container or a Service is called "fasttail", FASTTAIL_PORT is tcp://…, which fasttail passes over as well.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["python3", "-c", "\
import http.client, os, ssl, sys; \
port = os.environ.get('FASTTAIL_PORT', ''); \
where = ('127.0.0.1', int(port) if port.isdigit() else 8000); \
tls = os.environ.get('FASTTAIL_TLS_CERT'); \
server = http.client.HTTPSConnection(*where, timeout=4, context=ssl._create_unverified_context()) if tls \
else http.client.HTTPConnection(*where, timeout=4); \
server.request('GET', '/health/live'); \
sys.exit(server.getresponse().status != 200)"]
ENTRYPOINT ["fasttail"]
CMD ["serve", "/data"]
