#!/usr/bin/env bash
# What Redis as the broker costs, each figure beside its baseline in the same run. See --help.
exec python3 -B "$(dirname "$0")/harness/brokers.py" "$@"
