"""The main job: a program goes on, exactly, after its node was overloaded, drained or lost."""

import json
import os
import pathlib
import signal
import subprocess
import threading

import pytest

from conftest import LEASE_MS, alive, cmdline, descendants, until

LOOP = ["/usr/bin/python3", "-u", "-c",
        "import signal,sys,time\nended=[]\nsignal.signal(signal.SIGTERM,lambda *_:ended.append(1))\ni=0\n"
        "while i<int(sys.argv[1]) and not ended:\n  print(i)\n  i+=1\n  time.sleep(float(sys.argv[2]))"]
ENDLESS = 10**9  # until it is asked to end: how long a test takes is not known


def numbers(count):
    return b"".join(b"%d\n" % i for i in range(count))


def finish(cluster, name="loop"):
    """Lets the loop print some more, asks it to end, and looks at every line."""
    printed = cluster.logs(name).count(b"\n")
    until(lambda: cluster.logs(name).count(b"\n") > printed + 5, f"{name} goes on")
    cluster.baton("kill", "--signal", "TERM", name)
    assert cluster.wait(name) == 0
    log = cluster.logs(name)
    assert log == numbers(log.count(b"\n"))


def test_migrate_and_power_cut(cluster):
    cluster.run("loop", *LOOP, 60, 0.1, flags=["--node", "node-1", "--interval", "200ms"])
    cluster.until_checkpoint("loop")
    cluster.until_output("loop", b"\n10\n")
    cluster.baton("migrate", "loop", "--to", "node-2")
    assert cluster.job("loop")["node"] == "node-2"
    newest = cluster.until_checkpoint("loop", after=int(cluster.job("loop")["newest_checkpoint"]))
    assert newest
    cluster.power_cut("node-2")
    assert cluster.wait("loop") == 0
    assert cluster.logs("loop") == numbers(60)
    job = cluster.job("loop")
    assert [(move["cause"], move["from"], move["to"]) for move in job["moves"]] == [
        ("user", "node-1", "node-2"), ("node-lost", "node-2", "node-1")]
    assert all(move["downtime_ms"] > 0 for move in job["moves"])


def test_output_exact_at_ten_thousand_lines_a_second(cluster, workspace):
    """Five forced moves; a follower's copy and the stored log must both be exact."""
    lines = 150_000
    program = ("import sys,time\nstart=time.monotonic()\nfor i in range(%d):\n"
               "  sys.stdout.write(f'{i:08d} the quick brown fox\\n')\n"
               "  if i %% 100 == 99: sys.stdout.flush(); time.sleep(0.01)\n" % lines)
    cluster.run("chatty", "/usr/bin/python3", "-c", program, flags=["--node", "node-1", "--interval", "500ms"])
    followed = open(workspace / "followed", "w+b")
    follower = subprocess.Popen(
        ["stdbuf", "-o0", os.environ.get("BATON", str(__import__("conftest").BATON)), "--controller",
         f"unix:{cluster.socket}", "logs", "-f", "chatty"], stdout=followed, stdin=subprocess.DEVNULL)
    try:
        cluster.until_checkpoint("chatty")
        for _ in range(5):
            here = cluster.job("chatty")["node"]
            there = "node-2" if here == "node-1" else "node-1"
            cluster.baton("migrate", "chatty", "--to", there)
            cluster.until_checkpoint("chatty", after=int(cluster.job("chatty")["newest_checkpoint"]))
        assert cluster.wait("chatty", timeout=120) == 0
        follower.wait(timeout=30)
    finally:
        follower.kill()
        follower.wait()
    expected = b"".join(b"%08d the quick brown fox\n" % i for i in range(lines))
    assert cluster.logs("chatty") == expected
    followed.seek(0)
    assert followed.read() == expected
    moves = cluster.job("chatty")["moves"]
    assert len([move for move in moves if move["ok"]]) == 5


def test_output_exact_after_a_rollback(make_cluster, workspace):
    """A lost incarnation printed lines that its successor prints again, differently: the
    follower sees only the successor's."""
    cluster = make_cluster("--nodes", "2", "--lease", f"{LEASE_MS}ms")
    program = ("import os,time\nfor i in range(80):\n  print(i, open('/mnt/shared/era').read().strip(), flush=True)\n"
               "  time.sleep(0.05)\n")
    shared = workspace / "shared"
    shared.mkdir()
    (shared / "era").write_text("first")
    cluster.run("eras", "/usr/bin/python3", "-c", program,
                flags=["--node", "node-1", "--interval", "1s", "--volume", f"{shared}:/mnt/shared"])
    followed = open(workspace / "followed", "w+b")
    follower = subprocess.Popen([__import__("conftest").BATON, "--controller", f"unix:{cluster.socket}", "logs",
                                 "-f", "eras"], stdout=followed, stdin=subprocess.DEVNULL)
    try:
        cluster.until_checkpoint("eras")
        cluster.until_output("eras", b"\n25 first\n")
        cluster.power_cut("node-1")
        (shared / "era").write_text("second")
        assert cluster.wait("eras") == 0
        follower.wait(timeout=30)
    finally:
        follower.kill()
        follower.wait()
    log = cluster.logs("eras")
    assert [int(line.split()[0]) for line in log.splitlines()] == list(range(80))
    words = [line.split()[1] for line in log.splitlines()]
    assert words == sorted(words), "output of two incarnations is mixed"
    assert words[-1] == b"second"
    followed.seek(0)
    assert followed.read() == log


WITNESS = """
import os, sys, time
out = open('/mnt/shared/witness', 'a', buffering=1)
def sandbox():
    # The number of a namespace is used again once it is gone; with its pid 1's birth it is unique. Read until
    # both are of one sandbox: the program may be moved in between.
    found = None
    while True:
        before, found = found, os.readlink('/proc/self/ns/pid') + open('/proc/1/stat').read().split()[21]
        if found == before:
            return found
i = 0
while not os.path.exists('/mnt/shared/stop'):
    i += 1
    out.write(f"{time.clock_gettime(time.CLOCK_MONOTONIC_RAW):.4f} {sandbox()} {i}\\n")
    time.sleep(0.005)
"""


def witness_job(cluster, workspace, *flags, interval="300ms"):
    shared = workspace / "shared"
    shared.mkdir()
    cluster.run("witness", "/usr/bin/python3", "-c", WITNESS,
                flags=["--node", "node-1", "--interval", interval, "--volume", f"{shared}:/mnt/shared", *flags])
    if interval == "1h":
        cluster.until_running("witness")
        until(lambda: (shared / "witness").exists(), "it writes")
        cluster.baton("checkpoint", "witness")
    cluster.until_checkpoint("witness")
    return shared


def check_one_incarnation(shared):
    """Lines of different sandboxes must not interleave."""
    order = []
    for line in (shared / "witness").read_text(errors="replace").splitlines():
        fields = line.strip("\0").split()
        if len(fields) == 3 and (not order or order[-1] != fields[1]):
            order.append(fields[1])
    assert len(order) == len(set(order)), f"two incarnations ran at once: {order}"
    return order


def last_stamp(shared):
    return float((shared / "witness").read_text(errors="replace").strip().splitlines()[-1].strip("\0").split()[0])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_fencing_without_the_agent(make_cluster, workspace, how):
    """The agent is killed or stopped: its incarnation ends when the lease runs out, not before,
    and only then does another start."""
    import time
    cluster = make_cluster("--nodes", "2", "--lease", f"{LEASE_MS}ms", "--no-restart")
    # Not in the middle of a checkpoint: it would stand frozen until the lease runs out, and write no more.
    shared = witness_job(cluster, workspace, interval="1h")
    agent = cluster.agent_pid("node-1")
    os.kill(agent, how)
    stopped_at = time.clock_gettime(time.CLOCK_MONOTONIC_RAW)
    cluster.until_job("witness", lambda job: job["node"] == "node-2" and job["state"] == "running",
                      "the job runs on node-2")
    until(lambda: len(check_one_incarnation(shared)) == 2, "the successor writes")
    first = check_one_incarnation(shared)[0]
    lines = [line.split() for line in (shared / "witness").read_text().splitlines() if first in line]
    ran_on = float(lines[-1][0]) - stopped_at
    assert ran_on > LEASE_MS / 1000 * 0.5, f"the incarnation ended {ran_on:.2f} s after its agent, long before the lease"
    assert ran_on < LEASE_MS / 1000 + 0.2, f"the incarnation ran on for {ran_on:.2f} s, past its lease"
    (shared / "stop").touch()
    assert cluster.wait("witness") == 0
    check_one_incarnation(shared)
    if how == signal.SIGSTOP:
        os.kill(agent, signal.SIGCONT)


def test_agent_restarted_in_time_adopts(cluster, workspace):
    shared = witness_job(cluster, workspace)
    newest = int(cluster.job("witness")["newest_checkpoint"])
    os.kill(cluster.agent_pid("node-1"), signal.SIGKILL)
    cluster.until_checkpoint("witness", after=newest + 2)
    job = cluster.job("witness")
    assert (job["node"], job["generation"], job.get("moves", [])) == ("node-1", "1", []) or \
        (job["node"], int(job["generation"]), job.get("moves", [])) == ("node-1", 1, [])
    (shared / "stop").touch()
    assert cluster.wait("witness") == 0
    assert len(check_one_incarnation(shared)) == 1, "the job noticed"


def test_partition_fences_the_node(cluster, workspace):
    """The cable is cut: the node can't know that it is thought dead, and must stop by itself."""
    shared = witness_job(cluster, workspace)
    node = cluster.node("node-1")
    link = subprocess.run(["nsenter", "-t", str(node["pid"]), "-n", "ip", "-o", "link", "show", "type", "veth"],
                          capture_output=True, text=True, check=True).stdout.split(": ")[1].split("@")[0]
    subprocess.run(["nsenter", "-t", str(node["pid"]), "-n", "ip", "link", "set", link, "down"], check=True)
    cluster.until_job("witness", lambda job: job["node"] == "node-2" and job["state"] == "running", "recovered")
    until(lambda: len(check_one_incarnation(shared)) == 2, "the successor writes")
    subprocess.run(["nsenter", "-t", str(node["pid"]), "-n", "ip", "link", "set", link, "up"], check=True)
    until(lambda: cluster.nodes()["node-1"]["state"] == "up", "node-1 is back")
    (shared / "stop").touch()
    assert cluster.wait("witness") == 0
    check_one_incarnation(shared)


def test_controller_killed_and_restarted(cluster, workspace):
    shared = witness_job(cluster, workspace)
    before = cluster.job("witness")
    os.kill(cluster.info["controller_pid"], signal.SIGKILL)
    until(lambda: cluster.raw("ps").returncode == 0, "the controller answers again")
    cluster.refresh()
    after = cluster.until_checkpoint("witness", after=int(before["newest_checkpoint"]) + 1)
    job = cluster.job("witness")
    assert job["generation"] == before["generation"] and after
    cluster.baton("migrate", "witness", "--to", "node-2")
    (shared / "stop").touch()
    assert cluster.wait("witness") == 0
    assert len(check_one_incarnation(shared)) == 2


def test_restart_of_everything(make_cluster, workspace):
    cluster = make_cluster("--nodes", "2", "--lease", f"{LEASE_MS}ms")
    cluster.run("loop", *LOOP, ENDLESS, 0.05, flags=["--node", "node-1", "--interval", "200ms"])
    cluster.until_checkpoint("loop")
    cluster.until_output("loop", b"\n15\n")
    cluster.stop()
    cluster.start()
    cluster.until_running("loop")
    finish(cluster)


def test_both_nodes_lost(make_cluster, workspace):
    cluster = make_cluster("--nodes", "2", "--lease", f"{LEASE_MS}ms", "--no-restart")
    cluster.run("loop", *LOOP, ENDLESS, 0.05, flags=["--node", "node-1", "--interval", "200ms"])
    cluster.until_checkpoint("loop")
    cluster.power_cut("node-1")
    cluster.power_cut("node-2")
    cluster.until_job("loop", lambda job: job["state"] in ("recovering", "pending") and job.get("reason"),
                      "the job waits for a node and says so")
    cluster.stop()
    cluster.start()
    cluster.until_running("loop")
    finish(cluster)


def test_large_private_file_ships_once(cluster, workspace):
    """Of 200 MiB in one file, the second checkpoint brings what changed; the move loses nothing."""
    mib = 1 << 20
    program = (
        "import hashlib,os,signal,sys,time\n"
        "data=bytearray(b''.join(os.urandom(1<<20) for _ in range(200)))\n"
        "open('/tmp/large','wb').write(data)\n"
        "def change(*_):\n"
        "  data[50_000_000:50_000_004]=b'mark'\n"
        "  with open('/tmp/large','r+b') as f: f.seek(50_000_000); f.write(b'mark')\n"
        "  print('changed',flush=True)\n"
        "def check(*_):\n"
        "  print('same' if open('/tmp/large','rb').read()==data else 'DIFFERENT',flush=True)\n"
        "signal.signal(signal.SIGUSR1,change); signal.signal(signal.SIGUSR2,check)\n"
        "print('ready',flush=True)\n"
        "while True: time.sleep(1)\n")
    cluster.run("file", "/usr/bin/python3", "-c", program, flags=["--node", "node-1", "--interval", "1h"])
    cluster.until_output("file", b"ready\n")

    def checkpoint():
        cluster.baton("checkpoint", "file", timeout=120)
        return max(cluster.json("checkpoints", "file"), key=lambda c: int(c["number"]))
    first = checkpoint()
    assert int(first["size_bytes"]) > 200 * mib
    # Its memory holds the same bytes, and is another matter.
    second = checkpoint()
    assert int(second["size_bytes"]) > 200 * mib
    assert int(second.get("new_bytes", 0)) < 4 * mib
    cluster.baton("kill", "--signal", "USR1", "file")
    cluster.until_output("file", b"changed\n")
    third = checkpoint()
    assert int(third["new_bytes"]) < 12 * mib
    cluster.baton("migrate", "file", "--to", "node-2", timeout=120)
    cluster.baton("kill", "--signal", "USR2", "file")
    cluster.until_output("file", b"same\n")
    checkpoint()  # or the recovery would take the line back
    cluster.power_cut("node-2")
    cluster.until_running_on("file", "node-1")
    cluster.baton("kill", "--signal", "USR2", "file")
    cluster.until_output("file", b"same\nsame\n")
    cluster.baton("kill", "file")


def test_drain_and_cordon(cluster):
    for name in ("one", "two"):
        cluster.run(name, "sleep", "1000", flags=["--node", "node-1", "--interval", "300ms"])
    for name in ("one", "two"):
        cluster.until_checkpoint(name)
    cluster.baton("drain", "node-1")
    assert {job["node"] for job in cluster.json("ps")} == {"node-2"}
    assert "node-1" in cluster.fails("run", "--detach", "--node", "node-1", "--", "true")
    cluster.baton("uncordon", "node-1")
    cluster.baton("migrate", "one", "--to", "node-1")
    cluster.baton("cordon", "node-2")
    assert "node-2" in cluster.fails("migrate", "one", "--to", "node-2")
    for name in ("one", "two"):
        cluster.baton("kill", name)


def test_moves_and_drains_keep_their_limits(cluster):
    cluster.run("loop", *LOOP, ENDLESS, 0.05, flags=["--node", "node-1", "--interval", "1h"])
    cluster.until_output("loop", b"\n5\n")
    assert "stand still" in cluster.fails("migrate", "loop", "--max-downtime", "1ms")
    assert cluster.job("loop")["node"] == "node-1"
    cluster.baton("migrate", "loop", "--max-downtime", "30s", "--deadline", "60s")
    assert cluster.job("loop")["node"] == "node-2"
    cluster.baton("cordon", "node-1")
    assert "jobs left on it: 1; it is up, cordoned" in cluster.fails("drain", "node-2", "--deadline", "300ms")
    node = cluster.nodes()["node-2"]
    assert node.get("cordoned") and not node.get("draining")
    cluster.baton("uncordon", "node-1")
    cluster.baton("drain", "node-2", "--deadline", "60s")
    assert cluster.job("loop")["node"] == "node-1"
    for wrong in (["--deadline", "0"], ["--deadline", "5"], ["--max-downtime", "-1s"], ["--max-downtime", "100d"]):
        assert "--" in cluster.fails("migrate", "loop", *wrong)
    finish(cluster)


def test_restore_goes_back_in_time(cluster):
    cluster.run("loop", *LOOP, ENDLESS, 0.02, flags=["--interval", "300ms"])
    first = cluster.until_checkpoint("loop")
    cluster.until_checkpoint("loop", after=first)
    first = cluster.json("checkpoints", "loop")[0]
    oldest = min(int(c["number"]) for c in cluster.json("checkpoints", "loop"))
    cluster.baton("restore", "loop", "--checkpoint", str(oldest))
    log = cluster.logs("loop").decode()
    values = [int(line) for line in log.split("\n")[:-1]]
    assert values == list(range(len(values)))
    assert "999" in cluster.fails("restore", "loop", "--checkpoint", "999")
    cluster.baton("kill", "loop")
    assert cluster.wait("loop") == 137
    cluster.baton("restore", "loop")
    cluster.until_running("loop")
    length = len(cluster.logs("loop"))
    until(lambda: len(cluster.logs("loop")) > length + 20, "it goes on after its end was undone")
    cluster.baton("kill", "loop")


def test_health_command_evacuates(make_cluster, workspace):
    flag = workspace / "failing"
    policy = workspace / "policy.toml"
    policy.write_text(f'health_command = "test ! -e {flag}-$(hostname)"\nhealth_interval_ms = 200\nhealth_failures = 2\n')
    cluster = make_cluster("--nodes", "2", "--lease", f"{LEASE_MS}ms", "--policy", str(policy))
    cluster.run("loop", *LOOP, ENDLESS, 0.05, flags=["--node", "node-1", "--interval", "300ms"])
    cluster.until_checkpoint("loop")
    pathlib.Path(f"{flag}-node-1").touch()
    job = cluster.until_job("loop", lambda job: job["node"] == "node-2" and job["state"] == "running", "evacuated")
    assert job["moves"][-1]["cause"] == "about-to-fail"
    cluster.baton("kill", "loop")


def test_a_plan_is_what_would_be_done_and_does_nothing(make_cluster):
    cluster = make_cluster("--nodes", "3", "--lease", f"{LEASE_MS}ms")
    cluster.run("loop", *LOOP, ENDLESS, 0.05, flags=["--node", "node-1", "--interval", "300ms", "--policy",
                                                     "standby=false"])
    cluster.until_checkpoint("loop")
    cluster.baton("cordon", "node-2")
    plan = cluster.json("migrate", "loop", "--dry-run")
    assert plan["from"] == "node-1" and plan["to"] == "node-3", plan
    assert sorted(plan["rejected"]) == ["node-1 is where it runs", "node-2 is cordoned"]
    cluster.baton("cordon", "node-3")
    stays = cluster.raw("migrate", "loop", "--dry-run")
    assert stays.returncode == 1 and b"loop would stay on node-1" in stays.stdout
    assert b"node-3 is cordoned" in stays.stdout
    assert "runs on node-1 already" in cluster.fails("migrate", "loop", "--dry-run", "--to", "node-1")
    assert not cluster.job("loop")["moves"]
    cluster.baton("uncordon", "node-3")
    cluster.baton("migrate", "loop")
    assert cluster.job("loop")["node"] == "node-3"
    finish(cluster)


def test_a_node_that_is_told_of_its_end_is_left(cluster):
    cluster.run("loop", *LOOP, ENDLESS, 0.05, flags=["--node", "node-1", "--interval", "300ms"])
    cluster.until_checkpoint("loop")
    os.kill(cluster.agent_pid("node-1"), signal.SIGPWR)
    job = cluster.until_running_on("loop", "node-2")
    assert job["moves"][-1]["cause"] == "about-to-fail"
    assert cluster.agent_pid("node-1"), "it runs on"
    finish(cluster)


def test_overload_moves_once_and_does_not_come_back(make_cluster, workspace):
    policy = workspace / "policy.toml"
    policy.write_text("cpu_threshold = 0.8\ncpu_clear = 0.6\ncpu_for_ms = 1500\ncooldown_ms = 60000\n")
    cluster = make_cluster("--nodes", "2", "--lease", "3s", "--cpu-quota", "0.5", "--policy", str(policy))
    if not cluster.node("node-1").get("cgroup"):
        pytest.skip("no cgroup with a CPU quota can be made here")
    cluster.run("loop", *LOOP, ENDLESS, 0.05, flags=["--node", "node-1", "--interval", "500ms"])
    cluster.until_checkpoint("loop")
    leaves = load_cgroups(cluster, "node-1")
    burner = subprocess.Popen(["sh", "-c", "for g; do echo $$ > \"$g/cgroup.procs\"; done; while :; do :; done",
                               "burner", *leaves])
    try:
        job = cluster.until_job("loop", lambda job: job["node"] == "node-2" and job["state"] == "running", "moved")
        assert job["moves"][-1]["cause"] == "cpu-overload"
    finally:
        burner.kill()
        burner.wait()
        for leaf in leaves:
            os.rmdir(leaf)
    cluster.baton("kill", "loop")


def load_cgroups(cluster, node):
    """A leaf of the node's own cgroup: one per hierarchy (version 1), or one (version 2)."""
    path = cluster.node(node)["cgroup"]
    groups = [group for group in [pathlib.Path(f"/sys/fs/cgroup/{path}"), *pathlib.Path("/sys/fs/cgroup").glob(f"*/{path}")]
              if group.is_dir()]
    assert groups, f"no cgroup {path}"
    for group in groups:
        (group / "load").mkdir(exist_ok=True)
    return [str(group / "load") for group in groups]
