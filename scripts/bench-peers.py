#!/usr/bin/env python3
"""One training step in PyTorch and in nst-cache, in turn, on this machine: medians of medians and their ratio.

    scripts/bench-peers.py --peers ../shared/bench --threads 1,2 --rounds 3

PyTorch goes into a throw-away environment unless --python names one that has it. A row during which other processes kept
more than a tenth of a core busy is marked with `~`: it is no measurement.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import venv

MODELS = "resnet20,wrn-16-2,resnet18-224,mobilenetv2-224,mobilenetv2-32"


def environment(folder):
    venv.create(folder, with_pip=True)
    python = pathlib.Path(folder) / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "torch", "torchvision", "numpy"], check=True)
    return python


def ours(binary, model, threads, precision, steps):
    command = [binary, "bench", "step", "--model", model, "--threads", str(threads), "--precision", precision, "--steps", str(steps), "--json", "--quiet"]
    row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return row["median_ms"], row["peak_rss_mb"], 0.0


def theirs(python, peers, model, threads, layout, steps):
    command = [python, peers / "torch_step.py", "--models", model, "--layouts", layout, "--threads", str(threads), "--steps", str(steps), "--json"]
    row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["results"][0]
    return row["median_ms"], row["peak_rss_mb"], row.get("others_cores", 0.0)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peers", type=pathlib.Path, required=True, help="folder with torch_step.py")
    p.add_argument("--binary", default="target/release/nst-cache")
    p.add_argument("--python", help="a Python that has torch and torchvision")
    p.add_argument("--models", default=MODELS)
    p.add_argument("--threads", default="1,2")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--json", type=pathlib.Path, help="also write every measurement here")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = a.python or environment(folder)
        contenders = {
            "PyTorch nchw": lambda m, t: theirs(python, a.peers, m, t, "nchw", a.steps),
            "PyTorch nhwc": lambda m, t: theirs(python, a.peers, m, t, "channels_last", a.steps),
            "strict": lambda m, t: ours(a.binary, m, t, "strict", a.steps),
            "fast": lambda m, t: ours(a.binary, m, t, "fast", a.steps),
        }
        rows, every = [], []
        for threads in [int(t) for t in a.threads.split(",")]:
            for model in a.models.split(","):
                found = {name: [] for name in contenders}
                for round in range(a.rounds):
                    for name, run in contenders.items():
                        found[name].append(run(model, threads))
                        print(f"{threads} {model} {name}: {found[name][-1][0]:.1f} ms", file=sys.stderr)
                every += [dict(threads=threads, model=model, contender=n, ms=ms, mb=mb, others=o) for n, runs in found.items() for ms, mb, o in runs]
                ms = {name: statistics.median(r[0] for r in runs) for name, runs in found.items()}
                mb = {name: statistics.median(r[1] for r in runs) for name, runs in found.items()}
                noisy = "~" if max(r[2] for runs in found.values() for r in runs) > 0.1 else ""
                best = min(("PyTorch nchw", "PyTorch nhwc"), key=ms.get)
                rows.append([model, threads, *(f"{ms[n]:.0f}" for n in contenders), f"{ms['strict'] / ms[best]:.2f}{noisy}",
                             f"{ms['fast'] / ms[best]:.2f}{noisy}", f"{mb[best]:.0f}", f"{mb['fast']:.0f}", f"{mb['fast'] / mb[best]:.2f}"])
    if a.json:
        a.json.write_text(json.dumps(every, indent=1))
    head = ["network", "threads", *(f"{n} ms" for n in contenders), "strict / best", "fast / best", "PyTorch MB", "ours MB", "ratio"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(c) for c in row) + " |")


if __name__ == "__main__":
    main()
