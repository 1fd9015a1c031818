#!/usr/bin/env bash
# Publishes this machine's load once a second: processor and memory in per cent. Needs Linux, bash and curl.
# Usage: RINGHOLD_HTTP_API_KEY=… publish.sh [http://127.0.0.1:8000]
set -euo pipefail
server=${1:-http://127.0.0.1:8000}

busy=0 all=0
while :; do
    was_busy=$busy was_all=$all
    read -r _ user nice system idle wait irq softirq _ < /proc/stat
    busy=$((user + nice + system + irq + softirq)) all=$((user + nice + system + irq + softirq + idle + wait))
    processor=$(((busy - was_busy) * 100 / (all > was_all ? all - was_all : 1)))
    memory=$(awk '/^MemTotal/ { total = $2 } /^MemAvailable/ { print int(100 - $2 * 100 / total) }' /proc/meminfo)
    curl -sSf -o /dev/null "$server/api/publish" -H "X-API-Key: $RINGHOLD_HTTP_API_KEY" \
        -d "{\"channel\":\"host:load\",\"data\":{\"processor\":$processor,\"memory\":$memory}}" || true
    sleep 1
done
