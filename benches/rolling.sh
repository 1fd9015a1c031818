#!/usr/bin/env bash
# What clients of an SDK lose while all nodes are restarted one after the other: nothing. See --help.
exec python3 "$(dirname "$0")/harness/rolling.py" "$@"
