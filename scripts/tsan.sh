# Sourced by other scripts after venv.sh: runs Python with the thread sanitizer of a tsan build.
# shellcheck shell=bash

tsan_apt_line="sudo apt-get install clang-19 libclang-rt-19-dev libomp-19-dev llvm-19"

# need_tsan: sets tsan_library (the runtime to preload) and tsan_archer (which reports OpenMP's synchronization to it).
need_tsan() {
    [ -n "$CC" ] || stop "no clang here. On Debian 12: $tsan_apt_line"
    tsan_library=$("$CC" -print-resource-dir)/lib/linux/libclang_rt.tsan-$(uname -m).so
    tsan_archer=$("$CC" -print-file-name=libarcher.so)
    local library
    for library in "$tsan_library" "$tsan_archer"; do
        [ -f "$library" ] || stop "$library is missing. On Debian 12: $tsan_apt_line"
    done
}

# under_tsan COMMAND…: fails if COMMAND fails or any of its processes leaves a report; prints the reports.
under_tsan() {
    local reports status=0
    need_tsan
    reports=$(mktemp -d)
    # The interpreter and uvloop are not instrumented, so their memory accesses are ignored, but their mutexes, including the
    # GIL, are seen. exitcode=0, because tests judge processes by their exit code; the reports decide here.
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
