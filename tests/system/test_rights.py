"""What a job may do, before and after it was moved, and what the daemons keep for themselves."""

import os
import pathlib
import re
import subprocess

import pytest

from conftest import until
from test_identity import hosts  # noqa: F401, the fixture

# Of each process: permitted and bounding set, and whether it can get no new privileges.
SHOW = ["/usr/bin/python3", "-u", "-c", """
import os, re, time
def rights():
    return ' '.join(re.findall(r'(?:CapPrm|CapBnd|NoNewPrivs):\\s*(\\w+)', open('/proc/self/status').read()))
while not os.path.exists('/tmp/stop'):
    print(os.getuid(), rights(), flush=True)
    time.sleep(0.05)
"""]
# Chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw,
# sys_chroot, audit_write, setfcap.
OF_A_JOB = 0xA00425FB
SYS_NICE = 1 << 23


def last_line(text):
    return text.split("\n")[-2] if text.count("\n") else ""


def status(pid, field):
    """Of all threads: a right that one has, all have."""
    return {int(re.search(rf"{field}:\s*(\w+)", (task / "status").read_text())[1], 16)
            for task in pathlib.Path(f"/proc/{pid}/task").iterdir()}


@pytest.mark.parametrize("flags,expected", [
    ([], f"0 {OF_A_JOB:016x} {OF_A_JOB:016x} 1"),
    (["--user", "nobody"], f"65534 {0:016x} {OF_A_JOB:016x} 1"),
    (["--cap-add", "cap_sys_nice", "--new-privileges"],
     f"0 {OF_A_JOB | SYS_NICE:016x} {OF_A_JOB | SYS_NICE:016x} 0"),
])
def test_a_job_has_the_same_rights_wherever_it_runs(cluster, flags, expected):
    cluster.run("show", *SHOW, flags=["--node", "node-1", "--interval", "400ms", *flags])
    cluster.until_output("show", expected.encode())
    cluster.until_checkpoint("show")
    cluster.baton("migrate", "show", "--to", "node-2")
    before = len(cluster.logs("show"))
    until(lambda: len(cluster.logs("show")) > before + 500, "it prints on")
    assert set(cluster.logs("show").decode().split("\n")[:-1]) == {expected}
    cluster.baton("kill", "show")


def test_sudo_works_when_it_is_asked_for(cluster):
    """A set-user-id program in the job's own files: a copy of id(1)."""
    script = ["sh", "-c", "cp /usr/bin/id /tmp/id; chmod 4755 /tmp/id; exec setpriv --reuid 65534 --clear-groups "
              "/tmp/id -u"]
    assert cluster.raw("run", "--", *script).stdout == b"65534\n"
    assert cluster.raw("run", "--new-privileges", "--", *script).stdout == b"0\n"


def test_capabilities_that_there_are_not(cluster):
    assert "there is no capability" in cluster.fails("run", "--cap-add", "FLY", "--", "true")
    assert "no job can have the capability sys_module" in \
        cluster.fails("run", "--cap-add", "SYS_MODULE", "--", "true")


def test_daemons_keep_what_they_need(cluster):
    controller = cluster.info["controller_pid"]
    assert status(controller, "CapBnd") == status(controller, "CapPrm") == {1 << 1 | 1 << 10}
    agent = cluster.agent_pid("node-1")
    (bounding,), (permitted,) = status(agent, "CapBnd"), status(agent, "CapPrm")
    assert bounding == permitted
    for number in (9, 11, 16, 20, 22, 26, 30, 32, 33, 35, 36, 37, 38, 39):
        assert not bounding >> number & 1, f"capability {number}"
    for number in (12, 18, 19, 21):
        assert bounding >> number & 1, f"capability {number}"
    assert "capabilities kept: " in cluster.log_text()


def thread_named(pid, name):
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            if (task / "comm").read_text() == name + "\n":
                return int(task.name)
        except OSError:
            pass  # it has ended meanwhile
    raise AssertionError(f"{pid} has no thread {name}")


def test_leases_do_not_wait_for_a_processor(cluster):
    if subprocess.run(["chrt", "--rr", "1", "true"]).returncode != 0:
        pytest.skip("no real-time priority on this machine")
    for node in ("node-1", "node-2"):
        lease = thread_named(cluster.agent_pid(node), "lease")
        assert os.sched_getscheduler(lease) == os.SCHED_RR | os.SCHED_RESET_ON_FORK
    assert os.getpriority(os.PRIO_PROCESS, cluster.info["controller_pid"]) < 0


def test_a_checkpoint_from_where_there_was_more(hosts):  # noqa: F811
    """As one of a version that gave jobs everything: it goes on with what its new node can give."""
    hosts.join("one")
    weak = ["setpriv", "--bounding-set", "-sys_nice", "--inh-caps", "-all"]
    hosts.agent("two", "--join", hosts.token("--node", "two"), through=weak)
    hosts.baton("await-nodes", "two")
    hosts.baton("run", "-d", "--name", "show", "--node", "one", "--cap-add", "SYS_NICE", "--interval", "400ms", "--",
                *SHOW)
    many = f"0 {OF_A_JOB | SYS_NICE:016x} {OF_A_JOB | SYS_NICE:016x} 1"
    until(lambda: many in hosts.baton("logs", "show"), "it has what was asked for")
    hosts.baton("migrate", "show", "--to", "two")
    until(lambda: last_line(hosts.baton("logs", "show")) == f"0 {OF_A_JOB:016x} {OF_A_JOB:016x} 1", "it goes on")
    assert "goes on without the capabilities sys_nice" in hosts.log("two")
    hosts.baton("kill", "show")
