#!/usr/bin/env python3
"""Training steps in PyTorch and in nst-cache, in turn, on this machine: medians of medians and
their ratio.

    scripts/bench-peers.py --peers ../shared/bench --threads 1,2 --rounds 3
    scripts/bench-peers.py --peers ../shared/bench --only distill --pairs cifar
    scripts/bench-peers.py --peers ../shared/bench --only read
    scripts/bench-peers.py --peers ../shared/bench --only extract --teacher teacher.onnx
      --data photos
    scripts/bench-peers.py --only criteria --threads 1,2 --rounds 2

`step` is a supervised step (torch_step.py); `distill` is a distillation step, from the cache here,
with a live teacher there (torch_online_nst.py); `read` is shuffled batches of stored maps
(torch_cached.py); `extract`, only with a teacher, is an extraction against onnxruntime alone with
the same tensors read (ort_bare.py); `criteria` is each criterion by itself (torch_criteria.py
beside this file), on the same tensors and weights, which also compares the losses and gradients.
PyTorch goes into a throw-away environment unless --python names one that has it. A row during which
other processes kept more than a tenth of a core busy is marked with `~`: it is no measurement.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv

MODELS = "resnet20,wrn-16-2,resnet18-224,mobilenetv2-224,mobilenetv2-32"
# the broadcast form of the large pair takes 7 GB and a minute a step
BROADCAST_STEPS = {"imagenet": (2, 1)}
# [batch, channels, channels, positions] of the wide pair is 17 GB, several times over
CRITERIA_PAIRS = {
    "resnet32x4-resnet8x4": None,
    "wrn-40-2-wrn-40-1": None,
    "wide": ["nst-linear", "nst-poly", "nst-gauss"],
}
# what PyTorch code usually broadcasts, with the form in matrix products
PRODUCTS = ("nst-poly", "nst-gauss", "fsp")


def environment(folder):
    venv.create(folder, with_pip=True)
    python = pathlib.Path(folder) / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "torch", "torchvision", "numpy"], check=True
    )
    return python


def others_busy():
    """Seconds since some moment, and seconds of processor time that processes other than our
    children used since then."""
    try:
        fields = [int(t) for t in open("/proc/stat").readline().split()[1:9]]
    except OSError:
        return None
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
    return time.monotonic(), busy - own.ru_utime - own.ru_stime


def run(command):
    """The command's JSON and the cores that other processes kept busy meanwhile."""
    before = others_busy()
    document = json.loads(
        subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout
    )
    after = others_busy()
    others = max(0.0, (after[1] - before[1]) / (after[0] - before[0])) if before and after else 0.0
    return document, round(others, 2)


def step_ours(a, model, threads, precision):
    row, others = run(
        [
            a.bench,
            "step",
            "--model",
            model,
            "--threads",
            threads,
            "--precision",
            precision,
            "--steps",
            a.steps,
            "--json",
            "--quiet",
        ]
    )
    return row["median_ms"], row["peak_rss_mb"], others


def step_theirs(a, model, threads, layout):
    command = [
        a.python,
        a.peers / "torch_step.py",
        "--models",
        model,
        "--layouts",
        layout,
        "--threads",
        threads,
        "--steps",
        a.steps,
        "--json",
    ]
    row = run(command)[0]["results"][0]
    return row["median_ms"], row["peak_rss_mb"], row.get("others_cores") or 0.0


def distill_ours(a, pair, threads, precision):
    row, others = run(
        [
            a.bench,
            "distill",
            "--pair",
            pair,
            "--threads",
            threads,
            "--precision",
            precision,
            "--steps",
            a.steps,
            "--json",
            "--quiet",
        ]
    )
    return row["median_ms"], row["peak_rss_mb"], others


def distill_theirs(a, pair, threads, *form):
    steps, warmup = BROADCAST_STEPS.get(pair, (a.steps, 2)) if not form else (a.steps, 2)
    command = [
        a.python,
        a.peers / "torch_online_nst.py",
        "--pair",
        pair,
        "--threads",
        threads,
        "--steps",
        steps,
        "--warmup",
        warmup,
        "--json",
        *form,
    ]
    row = run(command)[0]["results"][0]
    return row["step_ms"], row["peak_rss_mb"], row.get("others_cores") or 0.0


def in_turn(a, what, case, threads, contenders, every):
    """Medians over the rounds of every contender's time and memory, and whether others disturbed
    one of them."""
    found = {name: [] for name in contenders}
    for _ in range(a.rounds):
        for name, measure in contenders.items():
            found[name].append(measure(case, threads))
            ms, mb, others = found[name][-1]
            every.append(
                dict(
                    what=what,
                    case=case,
                    threads=threads,
                    contender=name,
                    ms=ms,
                    mb=mb,
                    others=others,
                )
            )
            print(
                f"{what} {case}, {threads} threads, {name}: {ms:.1f} ms, {mb:.0f} MB, "
                f"others {others:.2f}",
                file=sys.stderr,
            )
    ms = {name: statistics.median(r[0] for r in runs) for name, runs in found.items()}
    mb = {name: statistics.median(r[1] for r in runs) for name, runs in found.items()}
    return ms, mb, "~" if max(r[2] for runs in found.values() for r in runs) > 0.1 else ""


def table(head, rows):
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(c) for c in row) + " |")
    print(flush=True)


def steps(a, every):
    contenders = {
        "PyTorch nchw": lambda m, t: step_theirs(a, m, t, "nchw"),
        "PyTorch nhwc": lambda m, t: step_theirs(a, m, t, "channels_last"),
        "strict": lambda m, t: step_ours(a, m, t, "strict"),
        "fast": lambda m, t: step_ours(a, m, t, "fast"),
    }
    rows = []
    for threads in a.threads.split(","):
        for model in a.models.split(","):
            ms, mb, noisy = in_turn(a, "step", model, threads, contenders, every)
            best = min(("PyTorch nchw", "PyTorch nhwc"), key=ms.get)
            rows.append(
                [
                    model,
                    threads,
                    *(f"{ms[n]:.0f}" for n in contenders),
                    f"{ms['strict'] / ms[best]:.2f}{noisy}",
                    f"{ms['fast'] / ms[best]:.2f}{noisy}",
                    f"{mb[best]:.0f}",
                    f"{mb['fast']:.0f}",
                    f"{mb['fast'] / mb[best]:.2f}",
                ]
            )
    table(
        [
            "network",
            "threads",
            *(f"{n} ms" for n in contenders),
            "strict / best",
            "fast / best",
            "PyTorch MB",
            "ours MB",
            "ratio",
        ],
        rows,
    )


def distillations(a, every):
    contenders = {
        "broadcast": lambda p, t: distill_theirs(a, p, t),
        "Gram": lambda p, t: distill_theirs(a, p, t, "--gram"),
        "Gram, nhwc": lambda p, t: distill_theirs(a, p, t, "--gram", "--channels-last"),
        "strict": lambda p, t: distill_ours(a, p, t, "strict"),
        "fast": lambda p, t: distill_ours(a, p, t, "fast"),
    }
    rows = []
    for threads in a.threads.split(","):
        for pair in a.pairs.split(","):
            ms, mb, noisy = in_turn(a, "distill", pair, threads, contenders, every)
            best = min(("Gram", "Gram, nhwc"), key=ms.get)
            ratios = [
                f"{ms[own] / ms[of]:.3f}{noisy}"
                for of in ("broadcast", best)
                for own in ("strict", "fast")
            ]
            rows.append(
                [
                    pair,
                    threads,
                    *(f"{ms[n]:.0f}" for n in contenders),
                    *ratios,
                    f"{mb[best]:.0f}",
                    f"{mb['fast']:.0f}",
                ]
            )
    heads = [f"{own} / {of}" for of in ("broadcast", "best") for own in ("strict", "fast")]
    table(
        ["pair", "threads", *(f"{n} ms" for n in contenders), *heads, "PyTorch MB", "ours MB"], rows
    )


def reads(a, every):
    """Rows a second of shuffled batches, all from memory."""
    rows = {}
    for _ in range(a.rounds):
        for row in run([a.python, a.peers / "torch_cached.py", "--json"])[0]["results"]:
            rows.setdefault(f"PyTorch, {row['form']}, {row['workers']} workers", []).append(
                (row["samples_per_s"], row["mb_per_s"], row["others_cores"] or 0.0)
            )
        for compress in ("auto", "none"):
            for threads in a.threads.split(","):
                row, others = run(
                    [
                        a.bench,
                        "read",
                        "--compress",
                        compress,
                        "--threads",
                        threads,
                        "--json",
                        "--quiet",
                    ]
                )
                what = "zstd" if compress == "auto" else "no compression"
                found = {
                    "batches": "batches_mb_per_s",
                    "reader in order": "reader_mb_per_s",
                    "checksums and decoding alone": "bare_mb_per_s",
                }
                for name, key in found.items():
                    rate = row[key] * 1e6 / row["bytes"] * row["rows"]
                    rows.setdefault(f"{what}, {threads} threads, {name}", []).append(
                        (rate, row[key], others)
                    )
                print(
                    f"read {what}, {threads} threads: reader against bare {row['ratio']:.3f}, "
                    f"others {others:.2f}",
                    file=sys.stderr,
                )
                rows.setdefault(f"{what}, {threads} threads, reader / bare", []).append(
                    (row["ratio"], None, others)
                )
    every.extend(
        dict(what="read", contender=name, measured=measured) for name, measured in rows.items()
    )
    shown = []
    for name, measured in rows.items():
        noisy = "~" if max(m[2] for m in measured) > 0.1 else ""
        rate = statistics.median(m[0] for m in measured)
        megabytes = [m[1] for m in measured if m[1] is not None]
        shown.append(
            [
                name,
                f"{rate:.0f}{noisy}" if megabytes else f"{rate:.3f}{noisy}",
                f"{statistics.median(megabytes):.0f}" if megabytes else "",
            ]
        )
    table(["what", "rows/s", "MB/s"], shown)


def extractions(a, every):
    """Rows a second of a teacher alone, there and here, and of the whole extraction."""
    inspected, _ = run([a.binary, "inspect", a.teacher, "--json", "--quiet"])
    taps = [
        tap["tensor"] for tap in inspected["taps"] if tap["suggested"] and len(tap["shape"]) == 4
    ]
    flags = [flag for tap in taps for flag in ("--tap", tap)]
    shown = []
    for threads in a.threads.split(","):
        found = {"auto": [], "none": []}
        for _ in range(a.rounds):
            peer = run(
                [
                    a.python,
                    a.peers / "ort_bare.py",
                    a.teacher,
                    "--expose",
                    ",".join(taps),
                    "--threads",
                    threads,
                    "--batch",
                    "64",
                    "--json",
                ]
            )[0]
            alone = next(row for row in peer["results"] if row["outputs"] == "exposed")
            for compress, measured in found.items():
                with tempfile.TemporaryDirectory(dir=".") as folder:
                    command = [
                        a.bench,
                        "extract",
                        a.teacher,
                        "--data",
                        a.data,
                        "--limit",
                        a.limit,
                        "--shuffle",
                        1,
                        "--batch",
                        64,
                        *flags,
                    ]
                    command += [
                        "--compress",
                        compress,
                        "--threads",
                        threads,
                        "--rounds",
                        1,
                        "-o",
                        pathlib.Path(folder) / "cache",
                        "--json",
                        "--quiet",
                    ]
                    ours, others = run(command)
                measured.append(
                    (
                        alone["images_per_s"],
                        ours["bare_rows_per_s"],
                        ours["extract_rows_per_s"],
                        ours["ratio"],
                    )
                )
                stages = ", ".join(
                    f"{name} {seconds:.2f} s" for name, seconds in ours["stages"].items()
                )
                print(
                    f"extract, {threads} threads, {compress}: ratio {ours['ratio']:.3f}; "
                    f"{stages} of {ours['seconds']:.2f} s; others {others:.2f}",
                    file=sys.stderr,
                )
                every.append(
                    dict(
                        what="extract",
                        threads=threads,
                        compress=compress,
                        onnxruntime=alone,
                        ours=ours,
                        others=others,
                    )
                )
        for compress, measured in found.items():
            middle = [statistics.median(column) for column in zip(*measured)]
            of_python = statistics.median(m[2] / m[0] for m in measured)
            shown.append(
                [
                    threads,
                    compress,
                    *(f"{rate:.0f}" for rate in middle[:3]),
                    f"{middle[3]:.3f}",
                    f"{of_python:.3f}",
                ]
            )
    table(
        [
            "threads",
            "compress",
            "onnxruntime, Python",
            "alone, same process",
            "extraction",
            "of alone",
            "of Python's",
        ],
        shown,
    )


def criteria(a, every):
    """Each criterion, a process a measurement, ours and theirs in turn."""
    script = pathlib.Path(__file__).parent / "torch_criteria.py"
    methods = [
        row["name"]
        for row in json.loads(
            subprocess.run([a.binary, "criteria", "--json"], check=True, capture_output=True).stdout
        )
    ]
    for pair in a.criteria_pairs.split(","):
        shown = {}
        for name in a.criteria.split(",") if a.criteria else CRITERIA_PAIRS[pair] or methods:
            if name == "fsp" and pair != "resnet32x4-resnet8x4":
                continue  # asks for two layers, and for the same channels
            with tempfile.TemporaryDirectory() as folder:
                case = pathlib.Path(folder) / "case.safetensors"
                command = [a.bench, "criteria", name, "--pair", pair]
                subprocess.run([*command, "--save", case, "--quiet"], check=True)
                ours = lambda threads: run(
                    [*command, "--threads", threads, "--steps", a.steps, "--json", "--quiet"]
                )
                theirs = lambda threads, form: run(
                    [
                        a.python,
                        script,
                        case,
                        "--threads",
                        threads,
                        "--steps",
                        a.steps,
                        "--form",
                        form,
                    ]
                )
                contenders = {"ours": ours, "PyTorch": lambda threads: theirs(threads, "broadcast")}
                if name in PRODUCTS:
                    contenders["PyTorch, products"] = lambda threads: theirs(threads, "product")
                    if pair == "wide":
                        del contenders["PyTorch"]
                for threads in a.threads.split(","):
                    found = {who: [] for who in contenders}
                    for _ in range(a.rounds):
                        for who, measure in contenders.items():
                            row, others = measure(threads)
                            found[who].append(row)
                            every.append(
                                {
                                    **row,
                                    "what": "criteria",
                                    "pair": pair,
                                    "case": name,
                                    "contender": who,
                                    "others": others,
                                }
                            )
                            print(
                                f"criteria {pair}, {name}, {threads} threads, {who}: "
                                f"{row['median_ms']:.2f} ms, {row['peak_rss_mb']:.0f} MB, "
                                f"others {others:.2f}",
                                file=sys.stderr,
                            )
                    for who, rows in found.items():
                        # ratios of neighbours in time, so that a busy machine weighs on both
                        ratios = [
                            mine["median_ms"] / row["median_ms"]
                            for mine, row in zip(found["ours"], rows)
                        ]
                        median = lambda key: statistics.median(row[key] for row in rows)
                        shown.setdefault((name, who), {})[threads] = (
                            median("median_ms"),
                            statistics.median(ratios),
                            median("peak_rss_mb"),
                            median("baseline_mb"),
                            rows,
                        )
        rows = []
        for name, who in shown:
            if who == "ours":
                continue
            mine, peer = shown[name, "ours"], shown[name, who]
            cells = [name if who == "PyTorch" else f"{name}, products"]
            for threads in mine:
                cells += [
                    f"{peer[threads][0]:.2f}",
                    f"{mine[threads][0]:.2f}",
                    f"**{peer[threads][1]:.2f}**",
                ]
            first = next(iter(mine))
            before, peak = [f"{side[first][3]:.0f}" for side in (peer, mine)], [
                f"{side[first][2]:.0f}" for side in (peer, mine)
            ]
            difference = max(row["loss_difference"] for row in peer[first][4])
            rows.append(
                [
                    *cells,
                    f"{peak[0]} ({before[0]})",
                    f"{peak[1]} ({before[1]})",
                    f"**{mine[first][2] / peer[first][2]:.2f}**",
                    f"{difference:.0e}",
                ]
            )
        times = [
            head
            for threads in a.threads.split(",")
            for head in (f"PyTorch ms, {threads} thr.", "ours ms", "ratio")
        ]
        print(
            f"{pair}, medians of {a.rounds} rounds of {a.steps} steps; "
            "MB: peak (before the first step)"
        )
        table(["criterion", *times, "PyTorch MB", "ours MB", "ratio", "loss differs by"], rows)


def benchmarks():
    """Builds the bench target `peers` and returns where cargo put it."""
    command = "cargo build --release --locked --bench peers --message-format json".split()
    built = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    artifacts = [json.loads(line) for line in built.splitlines()]
    return next(
        one["executable"]
        for one in artifacts
        if one["reason"] == "compiler-artifact" and one["target"]["kind"] == ["bench"]
    )


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--peers",
        type=pathlib.Path,
        help="folder with torch_step.py and torch_online_nst.py; not for criteria",
    )
    p.add_argument("--binary", default="target/release/nst-cache")
    p.add_argument("--bench", help="our benchmarks' program [default: cargo builds it]")
    p.add_argument("--python", help="a Python that has torch and torchvision")
    p.add_argument(
        "--only",
        choices=["step", "distill", "read", "extract", "criteria"],
        help="one of the tables",
    )
    p.add_argument("--models", default=MODELS)
    p.add_argument("--pairs", default="cifar,imagenet")
    p.add_argument("--criteria", help="those of `criteria` that are measured [default: all]")
    p.add_argument("--criteria-pairs", default=",".join(CRITERIA_PAIRS))
    p.add_argument("--teacher", type=pathlib.Path, help="ONNX file of the extraction")
    p.add_argument("--data", help="its data set")
    p.add_argument("--limit", type=int, default=4096, help="its samples")
    p.add_argument("--threads", default="1,2")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--json", type=pathlib.Path, help="also write every measurement here")
    a = p.parse_args()
    # the library lies beside the program, and not beside the benchmarks
    library = "libonnxruntime." + ("dylib" if sys.platform == "darwin" else "so")
    library = pathlib.Path(a.binary).resolve().with_name(library)
    if library.is_file():
        os.environ.setdefault("ORT_DYLIB_PATH", str(library))
    if a.only != "criteria" and not a.peers:
        p.error("--peers: the folder of the scripts")
    a.bench = a.bench or benchmarks()
    with tempfile.TemporaryDirectory() as folder:
        a.python = a.python or environment(folder)
        every = []
        for what, measure in (
            ("step", steps),
            ("distill", distillations),
            ("read", reads),
            ("extract", extractions),
            ("criteria", criteria),
        ):
            if a.only == what or a.only is None and (what != "extract" or a.teacher):
                measure(a, every)
    if a.json:
        a.json.write_text(json.dumps(every, indent=1))


if __name__ == "__main__":
    main()
