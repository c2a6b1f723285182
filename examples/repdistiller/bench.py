"""Seconds per step of both scripts, in turns, so that a busy machine disturbs both."""

import statistics
import time

import torch

import train_cached
import train_live
from helper import parse_option


def batches(run):
    """The training batches, epoch after epoch."""
    while True:
        yield from run.train_loader


def main():
    opt = parse_option()
    torch.set_num_threads(2)
    runs = {"live": train_live.Distiller(opt), "cached": train_cached.Distiller(opt)}
    feeds = {name: batches(run) for name, run in runs.items()}
    seconds = {name: [] for name in runs}
    for turn in range(45):
        for name, run in runs.items():
            start = time.perf_counter()
            run.step(next(feeds[name]))
            # the first steps warm up
            if turn >= 5:
                seconds[name].append(time.perf_counter() - start)
    threads = torch.get_num_threads()
    print(f"{opt.model_t} to {opt.model_s}, batch {opt.batch_size}, {threads} threads")
    for name, found in seconds.items():
        low, median, high = (1000 * s for s in statistics.quantiles(found, n=4))
        print(f"{name:8} {median:7.1f} ms a step (quartiles {low:.1f} to {high:.1f})")
    ratios = [live / cached for live, cached in zip(seconds["live"], seconds["cached"])]
    print(f"live / cached, median of pairs: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
