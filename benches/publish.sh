#!/usr/bin/env bash
# What publications by HTTP cost a server, beside others in the same run. See --help.
exec python3 -B "$(dirname "$0")/harness/publish.py" "$@"
