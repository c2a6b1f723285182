#!/usr/bin/env python3
"""Prints the licenses of what is in the nst-cache program on this platform: linked crates and data.

Each crate's license files as its package has them; a text that many crates share stands once.
"""

import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMES = ("license", "licence", "copying", "copyright", "notice", "unlicense")
# what is embedded or compiled in beside the crates, each with a word on its license
OURS = ("src/data/fashion-mnist/README.md", "proto/README.md")


def metadata():
    """The packages that this platform's build resolves to, and their graph."""
    version = subprocess.run(["rustc", "-vV"], stdout=subprocess.PIPE, text=True, check=True).stdout
    host = next(line.split()[1] for line in version.splitlines() if line.startswith("host:"))
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", host]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=True).stdout)


def linked(graph):
    """The ids of what is linked: neither for building nor for tests alone."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    found, waiting = set(), [graph["root"]]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            kinds = ((d["pkg"], [k["kind"] for k in d["dep_kinds"]]) for d in nodes[node]["deps"])
            waiting.extend(package for package, kinds in kinds if None in kinds)
    return found - {graph["root"]}


def license_files(package):
    """Also those one folder down, where a crate carries a library in C."""
    folder = pathlib.Path(package["manifest_path"]).parent
    for path in [*sorted(folder.glob("*")), *sorted(folder.glob("*/*"))]:
        is_source = path.suffix in (".rs", ".c", ".h", ".json", ".toml")
        if path.name.lower().startswith(NAMES) and path.is_file() and not is_source:
            yield path.read_text(encoding="utf-8", errors="replace").strip()


def main():
    resolved = metadata()
    ids = linked(resolved["resolve"])
    packages = sorted(
        (p for p in resolved["packages"] if p["id"] in ids), key=lambda p: (p["name"], p["version"])
    )
    texts = {}
    print("nst-cache contains these crates from https://crates.io:\n")
    for package in packages:
        title = f"{package['name']} {package['version']}"
        authors = ", ".join(package["authors"])
        print(f"{title} ({package['license']})" + (f", {authors}" if authors else ""))
        for text in license_files(package):
            texts.setdefault(text, []).append(title)
    for name in OURS:
        texts[(ROOT / name).read_text(encoding="utf-8").strip()] = [f"nst-cache: {name}"]
    for text, titles in texts.items():
        print(f"\n{'=' * 80}\n{', '.join(titles)}\n{'=' * 80}\n\n{text}")


if __name__ == "__main__":
    main()
