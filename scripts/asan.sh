# Sourced by other scripts after venv.sh: runs Python with the sanitizers of an asan build.
# shellcheck shell=bash

# under_asan COMMAND…: fails if COMMAND fails or any of its processes leaves a report; prints the reports.
under_asan() {
    local name path libraries="" reports status=0
    for name in libasan.so libubsan.so; do
        path=$("${CC:-gcc}" -print-file-name="$name")
        [ "$path" != "$name" ] || stop "${CC:-gcc} has no $name"
        libraries+=${libraries:+:}$path
    done
    reports=$(mktemp -d)
    # Reports go to files, since pytest and tests that start processes capture standard error.
    # No leak detection, because CPython keeps much memory for life. PYTHONMALLOC=malloc makes each bytes object a separate
    # allocation, so that reads past its end are found.
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
