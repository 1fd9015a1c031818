#!/usr/bin/env python3
"""Prints the bill of materials (CycloneDX 1.5) of the program: each crate of Cargo.lock that it is built from.

From `cargo metadata`, so that a checkout needs no further tool.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def metadata():
    options = argparse.ArgumentParser()
    options.add_argument("--target", help="of the program; default: this machine's")
    target = options.parse_args().target
    if target is None:
        version = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
        target = next(line.split()[1] for line in version.splitlines() if line.startswith("host:"))
    words = ["cargo", "metadata", "--format-version=1", "--locked", "--filter-platform", target]
    return json.loads(subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def built_from(tree):
    """The packages that the program is built from: without those of tests and benches."""
    nodes = {node["id"]: node for node in tree["resolve"]["nodes"]}
    found, open_ends = set(), [tree["resolve"]["root"]]
    while open_ends:
        package = open_ends.pop()
        if package in found:
            continue
        found.add(package)
        for dependency in nodes[package]["deps"]:
            if any(kind["kind"] in (None, "build") for kind in dependency["dep_kinds"]):
                open_ends.append(dependency["pkg"])
    return found


def main():
    tree = metadata()
    root, found = tree["resolve"]["root"], built_from(tree)
    components = []
    for package in sorted(tree["packages"], key=lambda package: (package["name"], package["version"])):
        name, version = package["name"], package["version"]
        component = {"type": "library", "name": name, "version": version, "purl": f"pkg:cargo/{name}@{version}",
                     "bom-ref": f"pkg:cargo/{name}@{version}"}
        if package.get("license"):
            component["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        if package["id"] == root:
            program = component | {"type": "application"}
        elif package["id"] in found:
            components.append(component)
    bill = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": {"component": program},
            "components": components}
    json.dump(bill, sys.stdout, indent=1)
    print()


main()
