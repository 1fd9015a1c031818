#!/usr/bin/env bash
# What a held connection costs, in user space and in the kernel. See --help.
exec python3 "$(dirname "$0")/harness/density.py" "$@"
