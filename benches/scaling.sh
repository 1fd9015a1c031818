#!/usr/bin/env bash
# What so many connections and channels take of nodes and brokers: arithmetic and draws. See --help.
exec python3 "$(dirname "$0")/harness/scaling.py" "$@"
