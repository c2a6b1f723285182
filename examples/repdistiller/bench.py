"""Seconds per step of both scripts, in turns, so that a busy machine disturbs both; and their
processor time, which it disturbs less."""

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
    seconds, processor = {name: [] for name in runs}, {name: [] for name in runs}
    for turn in range(25):
        for name, run in runs.items():
            start, used = time.perf_counter(), time.process_time()
            run.step(next(feeds[name]))
            # the first steps warm up
            if turn >= 5:
                seconds[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - used)
    threads = torch.get_num_threads()
    print(f"{opt.model_t} to {opt.model_s}, batch {opt.batch_size}, {threads} threads")
    for unit, times in (("seconds", seconds), ("processor seconds", processor)):
        for name, found in times.items():
            low, median, high = statistics.quantiles(found, n=4)
            print(f"{name:7} {median:.3f} {unit} a step (quartiles {low:.3f} to {high:.3f})")
        ratios = [live / cached for live, cached in zip(times["live"], times["cached"])]
        print(f"live / cached in {unit}, median of pairs: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
