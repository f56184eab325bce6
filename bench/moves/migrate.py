#!/usr/bin/env python3
"""Planned migrations: how long the program stands still, against stock CRIU's dump, copy, restore.

  migrate.py [--json FILE] [--count N] [--sizes 1024,4096] [--peer-count N] [--drain-count N]
"""

import argparse
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import time

import place
from observer import Observer
from report import Report


def ours(report, mb, count):
    samples = {"downtime_ms": [], "told_downtime_ms": [], "stage_ms": [], "transfer_ms": [], "restore_ms": []}
    with place.workspace() as folder, place.cluster(folder, 2, "3s") as made:
        observer = place.start_job(made, folder, "work", mb, "1s")
        for _ in range(count):
            place.until_standby(made, "work")
            here = made.job("work")["node"]
            observer.reset()
            made.baton("migrate", "work", "--to", "node-2" if here == "node-1" else "node-1", timeout=300)
            place.until(lambda: observer.gap_ms() > 0 and observer.since > time.monotonic() - 0.05, "it goes on")
            move = made.job("work")["moves"][-1]
            samples["downtime_ms"].append(observer.gap_ms())
            samples["told_downtime_ms"].append(move["downtime_ms"])
            for figure in ("stage_ms", "transfer_ms", "restore_ms"):
                samples[figure].append(move[figure])
        observer.close()
        place.check(made, "work")
    return report.case(f"planned migration, {mb} MiB, 10 MB/s dirtied", samples)


COMPLETE = re.compile(rb"memory of a restored job is complete: (\d+) MiB in ([\d.]+) ms, (\d+) pages on demand")


def resident_mb(pid):
    return int(re.search(r"VmRSS:\s*(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) >> 10


def drain(report, mb, count):
    """A job that sleeps between its writes: how fast it has all its memory where it is ready for it."""
    samples = {"gb_per_s": [], "on_demand": []}
    with place.workspace() as folder, place.cluster(folder, 2, "3s") as made:
        observer = place.start_job(made, folder, "work", mb, "2s", pages_per_ms=place.PAGES_PER_MS_10_MB_S / 10,
                                   spin="none")
        log = made.data.parent / f"{made.data.name}.log"
        while len(samples["gb_per_s"]) < count:
            place.until_standby(made, "work")
            here = made.job("work")["node"]
            there = "node-2" if here == "node-1" else "node-1"
            place.until(lambda: resident_mb(made.agent_pid(there)) > mb, "the standby has the memory decompressed",
                        timeout=120)
            before = log.stat().st_size
            made.baton("migrate", "work", "--to", there, timeout=300)
            done = place.until(lambda: COMPLETE.search(log.read_bytes()[before:]), "all of it is there", timeout=120)
            size, took_ms, faults = (float(word) for word in done.groups())
            samples["gb_per_s"].append(size * (1 << 20) / took_ms / 1e6)
            samples["on_demand"].append(faults)
        observer.close()
        place.check(made, "work")
    return report.case(f"lazy drain, {mb} MiB", samples)


def criu(*arguments):
    prefix = place.BUILD / "criu"
    loader = [prefix / "lib/ld.so", "--library-path", prefix / "lib"] if (prefix / "lib/ld.so").exists() else []
    subprocess.run([*map(str, loader), str(prefix / "bin/criu"), *map(str, arguments)], check=True,
                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def stock(report, mb, count):
    """The same program without Baton: dump, copy the images, restore, all on this machine's disk."""
    gaps = []
    with place.workspace() as folder:
        stats, output = folder / "stats", folder / "output"
        with open(output, "wb") as out:
            process = subprocess.Popen(place.command(mb, stats), cwd=folder, stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=out, start_new_session=True)
        pid = process.pid
        try:
            place.until(lambda: output.stat().st_size > 0, "the workload runs", timeout=300)
            observer = Observer(stats)
            for _ in range(count):
                for name in ("dumped", "copied"):
                    shutil.rmtree(folder / name, ignore_errors=True)
                (folder / "dumped").mkdir()
                observer.reset()
                criu("dump", "-t", pid, "-D", folder / "dumped", "--shell-job")
                # Its pid is free once somebody has reaped it: we, the first time; then pid 1.
                place.until(lambda: process.poll() is not None and not os.path.exists(f"/proc/{pid}"), "it is gone")
                shutil.copytree(folder / "dumped", folder / "copied")
                criu("restore", "-D", folder / "copied", "-d", "--shell-job")
                place.until(lambda: observer.since > time.monotonic() - 0.05, "it goes on")
                gaps.append(observer.gap_ms())
            observer.close()
        finally:
            with open(os.devnull, "w"):
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    pass
            place.until(lambda: not place.alive(pid), "the workload has ended")
    return report.case(f"stock criu dump, copy, restore, {mb} MiB", {"downtime_ms": gaps})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--peer-count", type=int, default=5)
    parser.add_argument("--drain-count", type=int, default=20)
    parser.add_argument("--sizes", default="1024,4096")
    options = parser.parse_args()
    report = Report()
    sizes = [int(size) for size in options.sizes.split(",")]
    downtimes = {mb: ours(report, mb, options.count)["downtime_ms"] for mb in sizes}
    small = downtimes[sizes[0]]
    name = f"planned migration, {sizes[0]} MiB, 10 MB/s dirtied"
    report.reach(name, "program-visible downtime, median", small, "ms", "<= 120", small <= 120)
    peer = stock(report, sizes[0], options.peer_count)["downtime_ms"] if options.peer_count else None
    report.reach(name, "stock dump + copy + restore / ours, medians", peer and peer / small, "times", ">= 15",
                 peer and peer / small >= 15)
    if len(sizes) > 1:
        ratio = downtimes[sizes[1]] / small
        report.reach(name, f"downtime at {sizes[1]} MiB / at {sizes[0]} MiB", ratio, "times", "<= 1.5", ratio <= 1.5)
    rate = drain(report, sizes[0], options.drain_count)["gb_per_s"] if options.drain_count else None
    report.reach(f"lazy drain, {sizes[0]} MiB local pages", "rate, median", rate, "GB/s", ">= 2", rate and rate >= 2)
    report.write(options.json)


if __name__ == "__main__":
    main()
