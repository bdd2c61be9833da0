#!/usr/bin/env python3
"""Prints the published packages of the root workspace, dependencies first: .ci/published.py [--libraries]

`--libraries` leaves out those that are programs only."""

import json
import subprocess
import sys


def main():
    command = ["cargo", "metadata", "--format-version", "1", "--no-deps"]
    packages = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["packages"]
    # `publish = false` is an empty list of registries.
    published = {package["name"]: package for package in packages if package["publish"] is None}
    ordered = []

    def visit(name):
        if name in ordered:
            return
        for dependency in published[name]["dependencies"]:
            # Dev-dependencies may point back.
            if dependency["name"] in published and dependency["kind"] != "dev":
                visit(dependency["name"])
        ordered.append(name)

    for name in sorted(published):
        visit(name)
    for name in ordered:
        kinds = {kind for target in published[name]["targets"] for kind in target["kind"]}
        if "lib" in kinds or "--libraries" not in sys.argv[1:]:
            print(name)


if __name__ == "__main__":
    main()
