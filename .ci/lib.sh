# Sourced by the scripts beside it: a server that is started on a port, waited for, and stopped.

fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# wait_ready URL PID: until URL answers 200, at most a minute, or the process ends.
wait_ready() {
    for _ in $(seq 240); do
        curl -sf -o /dev/null --max-time 2 "$1" && return 0
        kill -0 "$2" 2>/dev/null || return 1
        sleep 0.25
    done
    return 1
}

# stop PID: asks it to end, and fails when it has not ended well within half a minute.
stop() {
    kill -TERM "$1"
    for _ in $(seq 120); do
        kill -0 "$1" 2>/dev/null || { wait "$1"; return; }
        sleep 0.25
    done
    kill -KILL "$1"
    return 1
}
