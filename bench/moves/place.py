"""A cluster on this machine and the workload on it, for the benchmarks of moves and recoveries."""

import contextlib
import os
import pathlib
import shutil
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "system"))

from conftest import BUILD, Cluster, alive, until  # noqa: E402

from observer import Observer  # noqa: E402

MEMWORK = BUILD / "programs" / "memwork"
PAGES_PER_MS_10_MB_S = 10e6 / 4096 / 1000


@contextlib.contextmanager
def workspace():
    path = pathlib.Path(tempfile.mkdtemp(prefix="baton-bench-", dir="/var/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def cluster(folder, nodes, lease, *flags):
    made = Cluster(folder / "data", "--nodes", str(nodes), "--lease", lease, "--cpu-quota", "2", *flags)
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder / "data", ignore_errors=True)


def command(mb, stats, pages_per_ms=PAGES_PER_MS_10_MB_S, spin="0"):
    return [str(part) for part in (MEMWORK, "--mb", mb, "--threads", 1, "--spin", spin, "--pages-per-ms",
                                   pages_per_ms, "--stats", stats, "--ready", "-", "--result", "-")]


def start_job(made, folder, name, mb, interval, node="node-1", **how):
    """Returns the observer of a job that runs, has filled its memory and is protected."""
    shared = folder / "shared"
    shared.mkdir(exist_ok=True)
    made.run(name, *command(mb, f"/mnt/shared/{name}", **how),
             flags=["--node", node, "--interval", interval, "--volume", f"{shared}:/mnt/shared",
                    "--policy", "migrate_on_overload=false"])
    made.until_output(name, b"\n", timeout=300)
    made.until_checkpoint(name, after=int(made.job(name).get("newest_checkpoint", 0)), timeout=120)
    return Observer(shared / name)


def check(made, name):
    """Every byte of the job's memory is what it should be."""
    printed = len(made.logs(name))
    made.baton("kill", "--signal", "USR1", name)
    made.wait(name, timeout=300)
    words = made.logs(name)[printed:]
    assert words.startswith(b"OK "), words


def until_standby(made, name, other_than=()):
    return made.until_job(name, lambda job: int(job.get("standby_checkpoint", 0)) > 0
                          and job["standby"] not in other_than, f"{name} has a standby", timeout=120)


def kill_node(made, node):
    """All its processes at once, as a power cut would; returns when it was done."""
    import signal
    import time
    pid = made.node(node)["pid"]
    moment = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    return moment


__all__ = ["BUILD", "Cluster", "Observer", "alive", "check", "cluster", "command", "kill_node", "start_job", "until",
           "until_standby", "workspace"]
