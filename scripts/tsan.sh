# Sourced by the scripts beside it, after venv.sh: runs Python with the thread sanitizer of a tsan build.
# shellcheck shell=bash

tsan_apt_line="sudo apt-get install clang-19 libclang-rt-19-dev libomp-19-dev"

# need_tsan: sets tsan_library (the run time, preloaded) and tsan_archer (which tells it how OpenMP's threads wait).
need_tsan() {
    [ -n "$CC" ] || stop "no clang here. On Debian 12: $tsan_apt_line"
    tsan_library=$("$CC" -print-resource-dir)/lib/linux/libclang_rt.tsan-$(uname -m).so
    tsan_archer=$("$CC" -print-file-name=libarcher.so)
    local library
    for library in "$tsan_library" "$tsan_archer"; do
        [ -f "$library" ] || stop "$library is missing. On Debian 12: $tsan_apt_line"
    done
}

# under_tsan COMMAND…: fails if COMMAND does, or if any process of it left a report; the reports are shown.
under_tsan() {
    local reports status=0
    need_tsan
    reports=$(mktemp -d)
    # The interpreter and uvloop are not instrumented: their own accesses are unknown, while their mutexes, the GIL's among
    # them, are seen. exitcode 0: a test that starts a process judges it by its code; what was found decides here.
    env LD_PRELOAD="$tsan_library" OMP_TOOL_LIBRARIES="$tsan_archer" OMP_TOOL=enabled \
        TSAN_OPTIONS="ignore_noninstrumented_modules=1:exitcode=0:history_size=4:log_path=$reports/report:suppressions=$PWD/tests/tsan.supp" \
        "$@" || status=$?
    if [ -n "$(ls "$reports")" ]; then
        cat "$reports"/* >&2
        status=1
    fi
    rm -r "$reports"
    return "$status"
}
