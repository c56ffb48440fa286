# Sourced by the scripts beside it, in the root of the checkout: makes a virtual environment
# there and installs fasttail into it: .venv, or .venv-KIND for the other kinds of build, so that none displaces another.
# shellcheck shell=bash

apt_line="sudo apt-get install build-essential python3-dev python3-venv"
python=${PYTHON:-python3}
kind=${FASTTAIL_BUILD:-release}
venv=.venv
[ "$kind" = release ] || venv=.venv-$kind

say() { printf '== %s\n' "$*"; }
stop() { printf '%s: %s\n' "$0" "$1" >&2; exit 2; }

check_machine() {
    command -v "$python" >/dev/null || stop "no $python here. On Debian 12: $apt_line"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        stop "$("$python" --version) is too old: Python 3.11 or newer is needed (PYTHON=/path/to/python3.11 picks one)"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || stop "Python's venv module is missing. On Debian 12: $apt_line"
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        stop "Python.h is missing. On Debian 12: $apt_line"
    command -v "${CC:-gcc}" >/dev/null || stop "no C compiler here. On Debian 12: $apt_line"
}

# All that an installation depends on: sources, the commit it names, the kind of build, the Python.
digest() {
    { printf '%s\n' "$kind" "$("$venv"/bin/python -VV)"
      find fasttail setup.py pyproject.toml .git/HEAD .git/packed-refs .git/refs/heads \
          -type f -not -path '*/__pycache__/*' -print0 2>/dev/null | sort -z | xargs -0 sha256sum || :
    } | sha256sum | cut -d' ' -f1
}

# install [EXTRA]: what is already there, and unchanged, is not installed again.
install() {
    if ! "$venv"/bin/python -c 'import pip' 2>/dev/null; then
        check_machine
        say "making $venv"
        rm -rf "$venv"
        "$python" -m venv "$venv"
    fi
    local now stamp=$venv/installed${1:+-$1}
    now=$(digest)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$now" ]; then return; fi
    check_machine
    say "installing fasttail${1:+[$1]} into $venv (compiles; a minute the first time)"
    rm -f "$venv"/installed*
    "$venv"/bin/pip install --quiet --disable-pip-version-check --upgrade-strategy only-if-needed ".${1:+[$1]}"
    "$venv"/bin/pip check --disable-pip-version-check >/dev/null || say "pip check found conflicts: $venv/bin/pip check"
    echo "$now" >"$venv/installed"
    echo "$now" >"$stamp"
}
