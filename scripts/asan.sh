# Sourced by the scripts beside it, after venv.sh: runs Python with the sanitizers of an asan build.
# shellcheck shell=bash

# under_asan COMMAND…: fails if COMMAND does, or if any process of it left a report; the reports are shown.
under_asan() {
    local name path libraries="" reports status=0
    for name in libasan.so libubsan.so; do
        path=$("${CC:-gcc}" -print-file-name="$name")
        [ "$path" != "$name" ] || stop "${CC:-gcc} has no $name"
        libraries+=${libraries:+:}$path
    done
    reports=$(mktemp -d)
    # Reports go to files: pytest catches standard error, and so do tests that start processes.
    # Not leaks: CPython keeps much for life. malloc: each bytes object is an allocation with an end of its own.
    env LD_PRELOAD="$libraries" PYTHONMALLOC=malloc \
        ASAN_OPTIONS="detect_leaks=0:log_path=$reports/report" \
        UBSAN_OPTIONS="print_stacktrace=1:log_path=$reports/report" "$@" || status=$?
    if [ -n "$(ls "$reports")" ]; then
        cat "$reports"/* >&2
        status=1
    fi
    rm -r "$reports"
    return "$status"
}
