# Debian's NATS server with JetStream, one of three in a cluster.
FROM debian:bookworm-slim
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends nats-server \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10002 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin nats-js \
 && install -d -o 10002 -g 10002 -m 750 /var/lib/nats
USER 10002:10002
VOLUME /var/lib/nats
EXPOSE 4222
ENTRYPOINT ["nats-server", "--jetstream", "--store_dir", "/var/lib/nats", "--cluster_name", "fasttail", \
            "--cluster", "nats://0.0.0.0:6222", "--routes", "nats://nats1:6222,nats://nats2:6222,nats://nats3:6222"]
