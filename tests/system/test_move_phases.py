"""A planned move, and in each of its phases somebody dies or is cut off.

Whatever it is, the job runs exactly once, its memory and its file are what they should be, and so is
its output. BATON_ALL_PHASES=1 tries every victim in every phase (about five minutes).
"""

import os
import signal
import subprocess

import pytest

from conftest import BATON, LEASE_MS, until
from test_moves import finish

PHASES = [
    "agent.checkpoint.before_dump",  # the source, in a round before the freeze
    "agent.stage.before_fetch",      # the target, likewise
    "agent.freeze.before_dump",      # the source: the job runs yet
    "dump.frozen",                   # … stands still
    "agent.upload.before_commit",    # … and all is shipped but for the last word
    "agent.freeze.before_result",    # … and the controller does not know that it is
    "agent.restore.before_fetch",    # the target
    "restore.before_criu",           # … has all of it
    "agent.restore.before_result",   # … runs it, and the controller does not know
    "agent.release",                 # the source is told to let go
]
VICTIMS = ["source", "target", "controller", "source-link", "target-link"]
# Each phase and each victim at least once.
SOME = [(phase, VICTIMS[(i + i // 5) % 5]) for i, phase in enumerate(PHASES)]
ALL = [(phase, victim) for phase in PHASES for victim in VICTIMS]

# Prints numbers, and remembers each in its memory and in a private file.
PROGRAM = """
import os, signal, sys, time
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
witness = open('/mnt/shared/witness', 'a', buffering=1)
def sandbox():
    found = None  # read until both are of one sandbox: the program may be moved in between
    while True:
        before, found = found, os.readlink('/proc/self/ns/pid') + open('/proc/1/stat').read().split()[21]
        if found == before:
            return found
kept, file, i = [], open('/var/tmp/kept', 'a+'), 0
while not ended:
    witness.write(f"{time.clock_gettime(time.CLOCK_MONOTONIC_RAW):.4f} {sandbox()} {i}\\n")
    kept.append(bytes(1000) + str(i).encode())
    file.write(f"{i}\\n")
    file.flush()
    print(i, flush=True)
    i += 1
    time.sleep(0.02)
file.seek(0)
sys.exit(0 if [int(k) for k in (x.lstrip(b'\\0') for x in kept)] == list(range(i)) == [int(x) for x in file] else 3)
"""


def check_one_at_a_time(shared, source):
    """A sandbox that another one follows is never seen again, but for a source that was resumed."""
    runs = []
    for line in (shared / "witness").read_text(errors="replace").splitlines():
        fields = line.strip("\0").split()
        if len(fields) == 3 and (not runs or runs[-1] != fields[1]):
            runs.append(fields[1])
    assert runs[0] == source
    for sandbox in set(runs):
        assert runs.count(sandbox) <= (2 if sandbox == source else 1), f"two incarnations ran at once: {runs}"


def set_link(pid, state):
    enter = ["nsenter", "-t", str(pid), "-n", "ip"]
    name = subprocess.run([*enter, "-o", "link", "show", "type", "veth"], capture_output=True, text=True,
                          check=True).stdout.split(": ")[1].split("@")[0]
    subprocess.run([*enter, "link", "set", name, state], check=True)


@pytest.mark.parametrize("phase,victim", ALL if os.environ.get("BATON_ALL_PHASES") else SOME)
def test_who_dies_in_a_move(make_cluster, workspace, phase, victim):
    faults = workspace / "faults"
    faults.write_text("")
    cluster = make_cluster("--nodes", "3", "--lease", f"{LEASE_MS}ms", env={"BATON_FAULTS_FILE": str(faults)})
    shared = workspace / "shared"
    shared.mkdir()
    cluster.run("loop", "/usr/bin/python3", "-c", PROGRAM,
                flags=["--node", "node-1", "--interval", "1h", "--volume", f"{shared}:/mnt/shared",
                       "--policy", "standby=false"])
    cluster.until_output("loop", b"\n20\n")
    source = (shared / "witness").read_text().split()[1]
    cluster.baton("checkpoint", "loop")
    faults.write_text(f"{phase}=hold")
    mover = subprocess.Popen([BATON, "--controller", f"unix:{cluster.socket}", "migrate", "loop", "--to", "node-2"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    reached = workspace / f"faults.{phase}"
    until(reached.exists, f"{phase} is reached")
    name = "node-2" if victim.startswith("target") else "node-1"
    if victim == "controller":
        os.kill(cluster.info["controller_pid"], signal.SIGKILL)
    elif victim.endswith("link"):
        set_link(cluster.node(name)["pid"], "down")
    else:
        cluster.power_cut(name)
    faults.write_text("")
    until(lambda: cluster.raw("ps").returncode == 0, "the controller answers")
    printed = cluster.logs("loop").count(b"\n")
    cluster.until_running("loop")
    until(lambda: cluster.logs("loop").count(b"\n") > printed + 5, "it goes on")
    if victim.endswith("link"):
        set_link(cluster.node(name)["pid"], "up")
        until(lambda: cluster.nodes()[name]["state"] == "up", f"{name} is back")
    mover.wait(timeout=60)
    finish(cluster)
    check_one_at_a_time(shared, source)
