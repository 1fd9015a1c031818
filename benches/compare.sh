#!/usr/bin/env bash
# Servers side by side in the same run: throughput, latency, processor time. See --help.
exec python3 "$(dirname "$0")/harness/compare.py" "$@"
