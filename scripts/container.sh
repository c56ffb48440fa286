# Sourced by scripts/deploy and scripts/rollback, in the root of the checkout.
# shellcheck shell=bash

name=hyperliquid-parser

say() { printf '== %s\n' "$*"; }
stop() { printf '%s: %s\n' "$0" "$1" >&2; exit 2; }

if docker compose version >/dev/null 2>&1; then compose() { docker compose "$@"; }
elif command -v docker-compose >/dev/null; then compose() { docker-compose "$@"; }
else stop "neither 'docker compose' nor docker-compose here"; fi

# Call this after settings_of, since the settings may name another engine.
engine_answers() {
    docker info >/dev/null 2>&1 || stop "no Docker engine answers (DOCKER_HOST=${DOCKER_HOST:-})"
}

# Load a place's settings (HL_DATA, FASTTAIL_BIND, DOCKER_HOST …) from a file of shell assignments.
settings_of() {
    local file=deploy/$1.env
    [ -f "$file" ] || return 0
    say "settings of $file"
    set -a
    # shellcheck source=/dev/null
    . "$file"
    set +a
}

running_image() { docker inspect --format '{{.Image}}' "$name" 2>/dev/null || :; }

# version_of IMAGE: print the version and revision in its labels.
version_of() {
    docker image inspect --format \
        '{{index .Config.Labels "org.opencontainers.image.version"}} ({{index .Config.Labels "org.opencontainers.image.revision"}})' \
        "$1"
}

# swap_to IMAGE: tag it :latest and start it. Succeeds if it becomes healthy within HEALTH_S seconds.
swap_to() {
    local state i health_s=${HEALTH_S:-90}
    docker tag "$1" "$name:latest"
    FASTTAIL_TAG=latest compose up --detach --no-build --force-recreate "$name" || return 1
    for ((i = 0; i < health_s; i++)); do
        state=$(docker inspect --format '{{.State.Status}}/{{.State.Health.Status}}' "$name")
        case $state in
        running/healthy) say "healthy after $i s"; return 0 ;;
        running/unhealthy | exited/*) break ;;
        esac
        sleep 1
    done
    say "not healthy: $state after $i s"
    return 1
}
