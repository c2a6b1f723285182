#!/usr/bin/env python3
"""Runs `inspect` over every model that onnx's checker accepts: those of the package's backend
tests, files and node cases, or those at the places given.

    inspect-onnx-tests.py BINARY [FOLDER_OR_MODEL...]

Each must be answered with exit status 0 and name the model's inputs and outputs. Prints the
counts; exits 1 when a model is not answered.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor

import onnx

SECONDS = 120


def models(places):
    for place in map(pathlib.Path, places):
        yield from sorted(place.rglob("*.onnx")) if place.is_dir() else [place]


def write_node_cases(folder):
    """The package makes its tests of single nodes in memory."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in collect_testcases(None):
            if case.model is not None:
                onnx.save(case.model, pathlib.Path(folder) / f"{case.name}.onnx")


def accepted(path):
    try:
        # by path: models beyond 2 GB and external data are checked too
        onnx.checker.check_model(str(path))
    except Exception:  # whatever the checker raises, it does not accept the model
        return False
    return True


def inspect(binary, path):
    """What is wrong with the answer (None: nothing), and the runtime's refusal, if any."""
    try:
        run = subprocess.run(
            [binary, "inspect", path, "--json"], capture_output=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {SECONDS} s", None
    errors = run.stderr.decode(errors="replace").strip()
    if run.returncode != 0:
        return f"exit status {run.returncode}: {errors[-300:]}", None
    try:
        answer = json.loads(run.stdout)
    except ValueError as error:
        return f"no JSON: {error}", None
    refusal = answer.get("runtime_refusal")
    if refusal is not None and (not refusal.strip() or "\n" in refusal):
        return f"a refusal that is not one line: {refusal!r}", refusal
    graph = onnx.load(path, load_external_data=False).graph
    for name, declared in [("inputs", graph.input), ("outputs", graph.output)]:
        constants = {t.name for t in graph.initializer} | {
            t.values.name for t in graph.sparse_initializer
        }
        expected = [
            value.name for value in declared if name == "outputs" or value.name not in constants
        ]
        if [port["name"] for port in answer[name]] != expected:
            return f"{name} {answer[name]}, expected {expected}", refusal
    return None, refusal


def count(binary, name, places):
    """Prints one line of counts; gives the number of models that are not answered."""
    found = list(models(places))
    taken = [path for path in found if accepted(path)]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda path: inspect(binary, path), taken))
    failed = [(path, fault) for path, (fault, _) in zip(taken, results) if fault]
    refused = [refusal for _, refusal in results if refusal is not None]
    for path, fault in failed:
        print(f"FAILED {path}: {fault}")
    print(
        f"{name}: {len(found)} models, {len(taken)} accepted by the checker, "
        f"{len(taken) - len(failed)} answered, of which {len(refused)} the runtime refuses; "
        f"{len(failed)} failures",
        flush=True,
    )
    return len(failed) if taken else 1


def main():
    binary, *places = sys.argv[1:]
    if places:
        sys.exit(count(binary, "given", places) > 0)
    data = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data"
    version = f"onnx {onnx.__version__}"
    with tempfile.TemporaryDirectory() as folder:
        write_node_cases(folder)
        failed = count(binary, f"{version}, files", [data])
        failed += count(binary, f"{version}, node cases", [folder])
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
