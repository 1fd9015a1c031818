"""Judges compose files without Docker.

Usage: compose.py FILE...

Reads the files one over the other, as `docker compose -f A -f B` does; whatever a service names must be there:
services, configs, files beside it. Prints the environment of each service that is built here, as JSON, with
`${NAME:?}` still in it.
"""

import json
import sys
from pathlib import Path

import yaml

# What these files use of the format. A service has an image or is built.
KEYS = {"image", "build", "security_opt", "cap_drop", "read_only", "ulimits", "environment", "stop_grace_period",
        "depends_on", "ports", "network_mode", "volumes", "configs", "command"}


def merged(below, above):
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {key: merged(below[key], value) if key in below else value for key, value in above.items()}
    if isinstance(below, list) and isinstance(above, list):
        return below + [value for value in above if value not in below]
    return above


def beside(folder, path):
    assert (folder / path).exists(), f"{path} is missing"


def judge(name, service, whole, folder):
    assert set(service) <= KEYS, f"{name}: {set(service) - KEYS}"
    assert ("image" in service) != ("build" in service), name
    if "build" in service:
        context = folder / service["build"]["context"]
        beside(context, service["build"]["dockerfile"])
        beside(context, "Cargo.toml")
    for needed in service.get("depends_on", []):
        assert needed in whole["services"], f"{name} needs {needed}"
    network = service.get("network_mode", "")
    assert not network or network.removeprefix("service:") in whole["services"], network
    for option in service.get("security_opt", []):
        if option.startswith("seccomp:"):
            beside(folder, option.removeprefix("seccomp:"))
    for volume in service.get("volumes", []):
        beside(folder, volume.split(":")[0])
    for config in service.get("configs", []):
        assert config["source"] in whole["configs"], config
    for port in service.get("ports", []):
        assert all(0 < int(number) < 65536 for number in port.split(":")), port
    for variable, value in service.get("environment", {}).items():
        assert isinstance(value, str), f"{name}: {variable} is no text"


def main():
    files = [Path(name) for name in sys.argv[1:]]
    whole = {}
    for file in files:
        whole = merged(whole, yaml.safe_load(file.read_text()))
    for name, service in whole["services"].items():
        judge(name, service, whole, files[0].parent)
    built = {name: service["environment"] for name, service in whole["services"].items() if "build" in service}
    print(json.dumps(built))


main()
