# Stage 1 compiles the wheel and fills a virtual environment; stage 2 takes the environment only.
# A machine whose pip needs settings or certificates of its own gives them as the secrets pip_conf and ca_bundle
# (docker build --secret id=pip_conf,src=...); without them nothing is mounted.
FROM debian:bookworm-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential ca-certificates python3-dev python3-pip python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=secret,id=pip_conf --mount=type=secret,id=ca_bundle \
    if [ -s /run/secrets/pip_conf ]; then export PIP_CONFIG_FILE=/run/secrets/pip_conf; fi \
 && pip wheel --no-cache-dir --wheel-dir /wheels . \
 && python3 -m venv --without-pip /opt/fasttail \
 && pip --python /opt/fasttail/bin/python install --no-cache-dir --no-index --find-links /wheels fasttail

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin fasttail \
 && mkdir /data
COPY --from=build /opt/fasttail /opt/fasttail
# An ordinary user: the node's folder, mounted on /data, must be readable for others or for this uid.
USER 10001:10001
# No limit for each address: behind the engine's NAT all peers have one.
ENV PATH=/opt/fasttail/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FASTTAIL_HOST=0.0.0.0 \
    FASTTAIL_MAX_CLIENTS_PER_IP=0
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["python3", "-c", "\
import http.client, os, ssl, sys; \
where = ('127.0.0.1', int(os.environ.get('FASTTAIL_PORT') or 8000)); \
tls = os.environ.get('FASTTAIL_TLS_CERT'); \
server = http.client.HTTPSConnection(*where, timeout=4, context=ssl._create_unverified_context()) if tls \
else http.client.HTTPConnection(*where, timeout=4); \
server.request('GET', '/health/live'); \
sys.exit(server.getresponse().status != 200)"]
ENTRYPOINT ["fasttail"]
CMD ["serve", "/data"]
