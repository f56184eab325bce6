"""Real programs, moved while they work and lost with their node, then checked for content."""

import hashlib
import os
import shutil
import subprocess

import pytest

from conftest import LEASE_MS, PROGRAMS, until


def other(cluster, name):
    return "node-2" if cluster.job(name)["node"] == "node-1" else "node-1"


def move_about(cluster, name):
    """A migration, then a power cut: both ways a job moves."""
    cluster.until_checkpoint(name)
    cluster.baton("migrate", name, "--to", other(cluster, name))
    cluster.until_checkpoint(name, after=int(cluster.job(name)["newest_checkpoint"]))
    cluster.power_cut(cluster.job(name)["node"])


def test_xz_compresses_to_the_right_checksum(cluster, workspace):
    source = workspace / "input"
    block = b"".join(hashlib.sha256(b"%d" % i).hexdigest().encode() for i in range(20000))
    source.write_bytes(block * 40)
    shared = workspace / "shared"
    shared.mkdir()
    cluster.run("xz", "sh", "-c", f"xz -6 -T1 -c {source} > /tmp/out.xz && xz -dc /tmp/out.xz | sha256sum",
                flags=["--interval", "500ms"])
    move_about(cluster, "xz")
    assert cluster.wait("xz", timeout=180) == 0
    assert cluster.logs("xz").split()[0].decode() == hashlib.sha256(source.read_bytes()).hexdigest()


def test_python_threads_and_sqlite(cluster):
    program = r"""
import sqlite3, threading, time, os
os.makedirs('/tmp/db', exist_ok=True)
path = '/tmp/db/test.db'
setup = sqlite3.connect(path)
setup.execute('pragma journal_mode=wal')
setup.execute('create table t (worker int, i int, primary key (worker, i))')
setup.commit()
def work(worker):
    db = sqlite3.connect(path, timeout=30)
    for i in range(150):
        with db:
            db.execute('insert into t values (?, ?)', (worker, i))
        time.sleep(0.03)
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
print(setup.execute('select count(*), sum(i) from t').fetchone(), setup.execute('pragma integrity_check').fetchone())
"""
    cluster.run("sqlite", "/usr/bin/python3", "-c", program, flags=["--interval", "400ms"])
    move_about(cluster, "sqlite")
    assert cluster.wait("sqlite", timeout=120) == 0
    assert cluster.logs("sqlite") == b"(600, 44700) ('ok',)\n"


def test_redis_under_writes_through_a_unix_socket(cluster):
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    script = r"""
mkdir -p /tmp/r && cd /tmp/r
redis-server --port 0 --unixsocket /tmp/r/sock --save '' --appendonly yes --dir /tmp/r --daemonize no >/tmp/r/log 2>&1 &
until redis-cli -s /tmp/r/sock ping >/dev/null 2>&1; do sleep 0.05; done
i=0
while [ $i -lt 60 ]; do
  # each batch is an array of 200 increments over one connection
  j=0; while [ $j -lt 200 ]; do echo "incr counter"; echo "rpush list $i.$j"; j=$((j+1)); done | redis-cli -s /tmp/r/sock >/dev/null || exit 9
  i=$((i+1)); sleep 0.05
done
redis-cli -s /tmp/r/sock get counter
redis-cli -s /tmp/r/sock llen list
redis-cli -s /tmp/r/sock lindex list -1
redis-cli -s /tmp/r/sock shutdown nosave
wait
"""
    cluster.run("redis", "sh", "-c", script, flags=["--interval", "400ms"])
    move_about(cluster, "redis")
    assert cluster.wait("redis", timeout=120) == 0
    assert cluster.logs("redis") == b"12000\n12000\n59.199\n"


def test_a_tree_of_short_lived_processes(cluster):
    """Like make: many processes that come and go, several at a time, each leaving a file."""
    script = r"""
mkdir -p /tmp/build && cd /tmp/build
seq 1 400 | xargs -P 4 -I{} sh -c 'sleep 0.03; echo "object {}" > {}.o'
cat $(seq -f %g.o 1 400) | sha256sum | cut -d" " -f1
"""
    expected = hashlib.sha256(b"".join(b"object %d\n" % i for i in range(1, 401))).hexdigest()
    cluster.run("make", "sh", "-c", script, flags=["--interval", "400ms"])
    move_about(cluster, "make")
    assert cluster.wait("make", timeout=120) == 0
    assert cluster.logs("make").decode().strip() == expected


def test_a_program_that_exists_on_one_node_only(cluster, workspace):
    """What the job maps from the base travels with it when the target lacks it or has another."""
    tool = workspace / "tool"
    shutil.copy("/bin/sleep", tool)
    shutil.copy("/bin/sh", workspace / "shell")
    cluster.run("odd", str(workspace / "shell"), "-c", "for i in $(seq 1 100); do echo $i; sleep 0.05; done",
                flags=["--interval", "300ms", "--node", "node-1"])
    cluster.until_checkpoint("odd")
    # Both nodes see this machine's files; take it away as a target that lacks it would.
    (workspace / "shell").rename(workspace / "gone")
    cluster.baton("migrate", "odd", "--to", "node-2")
    cluster.until_checkpoint("odd", after=int(cluster.job("odd")["newest_checkpoint"]))
    (workspace / "shell").write_text("#!/bin/false\nanother version\n")
    cluster.power_cut("node-2")
    assert cluster.wait("odd") == 0
    assert cluster.logs("odd") == b"".join(b"%d\n" % i for i in range(1, 101))


KINDS = ["attributes", "calls", "deleted", "events", "files", "inotify", "locks", "memory", "pipes", "shm", "tcp", "threads",
         "unix"]


@pytest.mark.parametrize("kind", KINDS)
def test_kernel_objects_survive(cluster, kind):
    """Self-checking programs (tests/system/programs/statework.cc), one kind of kernel state each."""
    cluster.run(kind, PROGRAMS / "statework", kind, flags=["--interval", "300ms"])
    cluster.until_checkpoint(kind)
    cluster.baton("migrate", kind, "--to", other(cluster, kind))
    cluster.until_checkpoint(kind, after=int(cluster.job(kind)["newest_checkpoint"]))
    cluster.power_cut(cluster.job(kind)["node"])
    cluster.until_job(kind, lambda job: len(job["moves"]) == 2 and job["state"] == "running", "recovered")
    cluster.baton("kill", "--signal", "TERM", kind)
    code = cluster.wait(kind)
    lines = cluster.logs(kind).splitlines()
    assert (code, lines[-1]) == (0, b"END"), lines[-5:]
    assert [int(line) for line in lines[:-1]] == list(range(len(lines) - 1))


def test_every_kind_of_state_is_tried():
    usage = subprocess.run([PROGRAMS / "statework"], capture_output=True, text=True)
    known = (usage.stdout + usage.stderr).split("names:")[1].split()
    assert set(known) - {"counter"} == set(KINDS)
