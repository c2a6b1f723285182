#!/usr/bin/env python3
"""Reproduces the accuracy table of docs/accuracy.md with nst-cache: one cache, four recipes, three
seeds, a Markdown table on stdout.

  scripts/accuracy.py --teacher wrn16-2-fashion.onnx --data DIR [--seeds 0,1,2] [--work
  runs/accuracy]

DIR holds the four IDX files of Fashion-MNIST (Debian's package dataset-fashion-mnist has them).
A run that is there already is not repeated.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

METHODS = {"ce": "CE", "kd": "KD", "nst": "NST", "kd-nst": "KD + NST"}
TAPS = [f"/stages.{s}/stages.{s}.1/Add_output_0=stage{s + 1}" for s in range(3)]


def nst_cache(binary, *arguments):
    print("$ nst-cache", *arguments, file=sys.stderr)
    done = subprocess.run(
        [binary, "--json", *map(str, arguments)], stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/accuracy"))
    parser.add_argument("--binary", default="target/release/nst-cache")
    parser.add_argument("--precision", choices=["fast", "strict"], default="fast")
    options = parser.parse_args()

    cache = options.work / "cache"
    taps = [word for tap in TAPS for word in ("--tap", tap)]
    # f32, as the reference keeps its features
    nst_cache(
        options.binary,
        "extract",
        options.teacher,
        "--data",
        f"idx:{options.data}",
        "--limit",
        10000,
        "--store",
        "f32",
        "--preprocess",
        "fashion-mnist",
        *taps,
        "-o",
        cache,
    )
    print("|method|test accuracy %, mean ± std|seeds|seconds a run|")
    print("|---|---|---|---|")
    for name, title in METHODS.items():
        runs = []
        for seed in map(int, options.seeds.split(",")):
            folder = options.work / f"{name}-{options.precision}-{seed}"
            record = folder / "run.json"
            if record.exists():
                runs.append(json.loads(record.read_text()))
                continue
            runs.append(
                nst_cache(
                    options.binary,
                    "train",
                    "resnet8",
                    "--cache",
                    cache,
                    "--recipe",
                    f"recipes/fashion-mnist/{name}.toml",
                    "--seed",
                    seed,
                    "--precision",
                    options.precision,
                    "--test",
                    f"idx:{options.data}:test",
                    "-o",
                    folder,
                )
            )
        accuracy = [run["test"]["top1"] for run in runs]
        spread = statistics.stdev(accuracy) if len(accuracy) > 1 else float("nan")
        seconds = statistics.mean(run["seconds"] for run in runs)
        print(
            f"|{title}|**{statistics.mean(accuracy):.2f} ± {spread:.2f}**"
            f"|{', '.join(f'{a:.2f}' for a in accuracy)}|{seconds:.0f}|",
            flush=True,
        )


if __name__ == "__main__":
    main()
