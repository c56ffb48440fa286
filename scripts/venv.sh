# Sourced by other scripts in the root of the checkout. Installs the system packages that a build needs, makes a virtual
# environment and installs fasttail into it: .venv, or .venv-KIND for other kinds of build, so that they can coexist.
# shellcheck shell=bash

packages="build-essential python3-dev python3-venv"
apt_line="sudo apt-get update && sudo apt-get install $packages"
python=${PYTHON:-python3}
kind=${FASTTAIL_BUILD:-release}
venv=.venv
[ "$kind" = release ] || venv=.venv-$kind
yes=no # set by the scripts' option --yes: install system packages without asking

say() { printf '== %s\n' "$*"; }
stop() { printf '%s: %s\n' "$0" "$1" >&2; exit 2; }

# Print what is missing for a build, or nothing.
missing() {
    command -v "$python" >/dev/null || { echo "there is no $python"; return; }
    "$python" -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing"; return; }
    [ -f "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] ||
        { echo "Python.h is missing"; return; }
    command -v "${CC:-gcc}" >/dev/null || { echo "there is no C compiler"; return; }
    echo 'int main(void) { return 0; }' | "${CC:-gcc}" -x c -fopenmp - -o /dev/null 2>/dev/null ||
        echo "the C compiler cannot link programs with OpenMP"
}

# Announce and install the packages that a build needs on a fresh Debian or Ubuntu. It asks only on a terminal.
install_packages() {
    local as_root=() answer
    command -v apt-get >/dev/null || stop "$1. On Debian or Ubuntu: $apt_line"
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; } || stop "$1. As root: ${apt_line//sudo /}"
        as_root=(sudo)
    fi
    say "$1: installing $packages with apt-get"
    if [ "$yes" = no ] && [ -t 0 ]; then
        read -r -p "Install them now? [Y/n] " answer
        case $answer in '' | [Yy]*) ;; *) stop "nothing was installed. To do it yourself: $apt_line" ;; esac
    fi
    # shellcheck disable=SC2086 # several words
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive sh -ec 'apt-get update -qq
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null' sh $packages ||
        stop "apt-get failed. When the network is there: $apt_line"
}

# Install missing packages once. Anything still missing, or missing from another PYTHON or CC, is left to the user.
check_machine() {
    local why
    why=$(missing)
    if [ -n "$why" ] && [ -z "${PYTHON:-}${CC:-}" ]; then
        install_packages "$why"
        why=$(missing)
    fi
    [ -z "$why" ] || stop "$why (PYTHON=${PYTHON:-}, CC=${CC:-}). On Debian or Ubuntu: $apt_line"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        stop "$("$python" --version) is too old: fasttail needs Python 3.11 or newer (PYTHON=/path/to/python3.11 picks one)"
}

# Hash everything that an installation depends on: sources, commit, kind of build, Python.
digest() {
    { printf '%s\n' "$kind" "$("$venv"/bin/python -VV)"
      find fasttail setup.py pyproject.toml .git/HEAD .git/packed-refs .git/refs/heads \
          -type f -not -path '*/__pycache__/*' -print0 2>/dev/null | sort -z | xargs -0 sha256sum || :
    } | sha256sum | cut -d' ' -f1
}

# install [EXTRA]: installs fasttail unless the installed one is up to date.
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
