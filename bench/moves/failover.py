#!/usr/bin/env python3
"""Recoveries: from a node's death to the job's next page write; and whether load looks like death.

  failover.py [--json FILE] [--count N] [--load-minutes N] [--many 20]
"""

import argparse
import subprocess
import time

import place
from report import Report

LEASE_MS = 1000


def one_job(report, mb, count):
    """Kills the node of a job, again and again; clusters are renewed when they run out of nodes."""
    samples = {"recovery_ms": [], "beyond_lease_ms": [], "told_restore_ms": [], "told_transfer_ms": []}
    while len(samples["recovery_ms"]) < count:
        with place.workspace() as folder, place.cluster(folder, 6, f"{LEASE_MS}ms") as made:
            observer = place.start_job(made, folder, "work", mb, "1s")
            dead = []
            while len(dead) < 4 and len(samples["recovery_ms"]) < count:
                place.until_standby(made, "work", other_than=dead)
                here = made.job("work")["node"]
                observer.reset()
                moment = place.kill_node(made, here)
                dead.append(here)
                back = place.until(lambda: observer.first_after(moment), "it goes on", timeout=120)
                samples["recovery_ms"].append((back - moment) * 1000)
                samples["beyond_lease_ms"].append((back - moment) * 1000 - LEASE_MS)
                made.until_job("work", lambda job: job["state"] == "running" and job["node"] not in dead, "told")
                move = made.job("work")["moves"][-1]
                samples["told_restore_ms"].append(move["restore_ms"])
                samples["told_transfer_ms"].append(move["transfer_ms"])
            observer.close()
            place.check(made, "work")
    medians = report.case(f"node killed, {mb} MiB, lease 1 s", samples)
    beyond = medians["beyond_lease_ms"]
    report.reach(f"node killed, {mb} MiB, lease 1 s", "kill to next iteration, beyond the lease, median", beyond, "ms",
                 "<= 300", beyond <= 300)


def many_jobs(report, many, mb):
    """Jobs that write 1 MB/s and sleep in between: so many that spin would be a test of overload."""
    quiet = {"pages_per_ms": place.PAGES_PER_MS_10_MB_S / 10, "spin": "none"}
    with place.workspace() as folder, place.cluster(folder, 3, f"{LEASE_MS}ms") as made:
        observers = {f"work-{i}": place.start_job(made, folder, f"work-{i}", mb, "2s", **quiet)
                     for i in range(many)}
        for name in observers:
            place.until_standby(made, name)
        for observer in observers.values():
            observer.reset()
        moment = place.kill_node(made, "node-1")
        times = []
        for observer in observers.values():
            back = place.until(lambda o=observer: o.first_after(moment), "it goes on", timeout=120)
            times.append((back - moment) * 1000)
            observer.close()
    report.case(f"{many} jobs of {mb} MiB, one node killed", {"recovery_ms": times})
    worst = max(times) - LEASE_MS
    report.reach(f"{many} jobs of {mb} MiB, one node killed", "slowest of them, beyond the lease", worst, "ms",
                 "<= 3000", worst <= 3000)


def load(report, minutes):
    """Every processor and the disk are kept busy on the nodes; none may be taken for dead."""
    if not minutes:
        report.reach("full CPU and disk load", "nodes falsely lost", None, "", "0", False)
        return
    with place.workspace() as folder, place.cluster(folder, 2, f"{LEASE_MS}ms") as made:
        observer = place.start_job(made, folder, "work", 256, "2s")
        burners = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(4)]
        burners.append(subprocess.Popen(
            ["sh", "-c", f"while :; do dd if=/dev/zero of={folder}/load bs=1M count=512 conv=fsync 2>/dev/null; done"]))
        try:
            end = time.monotonic() + minutes * 60
            while time.monotonic() < end:
                time.sleep(1)  # the load's duration, not an event
        finally:
            for burner in burners:
                burner.kill()
                burner.wait()
        lost = sum(event["kind"] == "node-lost" for event in made.events())
        observer.close()
        place.check(made, "work")
    report.case(f"full CPU and disk load for {minutes} minutes", {"lost": [lost]})
    report.reach(f"full CPU and disk load for {minutes} minutes", "nodes falsely lost", lost, "", "0", lost == 0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--mb", type=int, default=1024)
    parser.add_argument("--many", type=int, default=20)
    parser.add_argument("--load-minutes", type=float, default=10)
    options = parser.parse_args()
    report = Report()
    if options.count:
        one_job(report, options.mb, options.count)
    if options.many:
        many_jobs(report, options.many, 64)
    load(report, options.load_minutes)
    report.write(options.json)


if __name__ == "__main__":
    main()
