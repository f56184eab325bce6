"""Clusters for the system tests: real processes, namespaces and kills, through the CLI only.

Every cluster lives in a folder of its own and is taken down at the end of its test, also when
the test fails; what it printed is shown then. Events are awaited, never slept for.
"""

import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BATON_BUILD", ROOT / "build"))
BATON = BUILD / "baton"
PROGRAMS = BUILD / "programs"
WAIT = 60  # seconds after which an awaited event counts as never coming


class CommandFailed(AssertionError):
    def __init__(self, args, code, out, err):
        super().__init__(f"{args} exited with {code}\nstdout: {out}\nstderr: {err}")
        self.code, self.out, self.err = code, out, err


def until(condition, what, timeout=WAIT, every=0.05):
    """Waits for a condition that no event stream carries (a pid that goes away, say)."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"never came true in {timeout} s: {what}")
        time.sleep(every)


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid):
    """Pids below `pid`, on this machine's numbering."""
    children = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        for child in children.get(queue.pop(), []):
            found.append(child)
            queue.append(child)
    return found


def cmdline(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


class SteppedClock:
    """A wall clock of a cluster's own that can be stepped while it runs (tests/fakes/stepped_clock.cc)."""

    def __init__(self, path):
        self.path = path
        path.write_bytes(bytes(8))
        self.env = {"LD_PRELOAD": str(BUILD / "stepped-clock.so"), "BATON_TEST_CLOCK": str(path)}

    def set_ahead(self, seconds):
        with open(self.path, "r+b", buffering=0) as file:
            file.write(struct.pack("=q", int(seconds * 1e9)))


class Cluster:
    def __init__(self, data, *flags, env=None):
        self.data = pathlib.Path(data)
        self.flags = flags
        self.env = dict(os.environ, **(env or {}))
        self.process = None
        self.start()

    # ---- life
    def start(self):
        ready_read, ready_write = os.pipe()
        self.log = open(self.data.parent / f"{self.data.name}.log", "ab")
        self.process = subprocess.Popen(
            [BATON, "up", "--data", self.data, "--ready-fd", str(ready_write), *self.flags],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            pass_fds=[ready_write], env=self.env)
        os.close(ready_write)
        line = os.read(ready_read, 64)
        os.close(ready_read)
        if not line:
            self.process.wait()
            raise AssertionError("baton up did not become ready:\n" + self.log_text())
        self.info = json.loads((self.data / "up.json").read_text())
        self.socket = self.info["socket"]

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError("baton up did not end within 30 s of Ctrl-C\n" + self.log_text())
        code = self.process.returncode
        assert code == 0, f"baton up ended with {code}\n{self.log_text()}"

    def log_text(self):
        return (self.data.parent / f"{self.data.name}.log").read_text(errors="replace")[-8000:]

    # ---- commands
    def raw(self, *args, timeout=WAIT, **kwargs):
        return subprocess.run(
            [BATON, "--controller", f"unix:{self.socket}", *args], capture_output=True,
            timeout=timeout, stdin=kwargs.pop("stdin", subprocess.DEVNULL), **kwargs)

    def baton(self, *args, timeout=WAIT):
        result = self.raw(*args, timeout=timeout)
        if result.returncode != 0:
            raise CommandFailed(args, result.returncode, result.stdout, result.stderr)
        return result.stdout.decode(errors="surrogateescape")

    def fails(self, *args, **kwargs):
        """Runs a command that must fail; returns its one line of explanation."""
        result = self.raw(*args, **kwargs)
        assert result.returncode != 0, f"{args} succeeded: {result.stdout}"
        err = result.stderr.decode(errors="replace").strip()
        assert err, f"{args} failed without a word"
        return err

    def json(self, *args, **kwargs):
        return json.loads(self.baton(*args, "--json", **kwargs))

    def run(self, name, *command, flags=()):
        self.baton("run", "--detach", "--name", name, *flags, "--", *map(str, command))
        return name

    def job(self, name):
        return self.json("inspect", name)

    def logs(self, name):
        return self.raw("logs", name).stdout

    def nodes(self):
        return {node["facts"]["name"]: node for node in self.json("nodes")}

    def events(self, job=None):
        lines = self.baton("events", "--json", *(["--job", job] if job else []))
        text = lines.strip()
        if text.startswith("["):
            return json.loads(text)
        return [json.loads(line) for line in text.splitlines()]

    def wait(self, name, timeout=WAIT):
        """Exit code of a job, once it has ended."""
        return self.raw("wait", name, timeout=timeout).returncode

    def until_job(self, name, condition, what, timeout=WAIT):
        last = {}

        def check():
            last["job"] = self.job(name)
            return last["job"] if condition(last["job"]) else None
        try:
            return until(check, what, timeout, every=0.1)
        except AssertionError as error:
            raise AssertionError(f"{error}\njob: {json.dumps(last.get('job'), indent=1)}") from None

    def until_running(self, name, **kwargs):
        return self.until_job(name, lambda job: job["state"] == "running", f"{name} runs", **kwargs)

    def until_running_on(self, name, node, **kwargs):
        return self.until_job(name, lambda job: job["state"] == "running" and job.get("node") == node,
                              f"{name} runs on {node}", **kwargs)

    def until_checkpoint(self, name, after=0, **kwargs):
        job = self.until_job(name, lambda job: int(job.get("newest_checkpoint", 0)) > after,
                             f"{name} has a checkpoint after {after}", **kwargs)
        return int(job["newest_checkpoint"])

    def until_output(self, name, marker, timeout=WAIT):
        return until(lambda: marker in self.logs(name), f"{marker!r} in the output of {name}", timeout)

    # ---- the machine room
    def node(self, name):
        return next(node for node in self.info["nodes"] if node["name"] == name)

    def refresh(self):
        self.info = json.loads((self.data / "up.json").read_text())

    def power_cut(self, name):
        pid = self.node(name)["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid), f"{name} is dead")

    def agent_pid(self, name):
        """The agent process of a node, found below the node's pid 1."""
        for pid in descendants(self.node(name)["pid"]):
            line = cmdline(pid)
            if len(line) > 1 and line[1] == b"agent":
                return pid
        return None

    def job_pids(self, node, needle):
        """Processes below a node's pid 1 whose command line holds `needle`."""
        return [pid for pid in descendants(self.node(node)["pid"])
                if needle.encode() in b" ".join(cmdline(pid)) and cmdline(pid)[1:2] not in
                ([b"agent"], [b"sandbox"], [b"root"])]


@pytest.fixture
def workspace():
    """A folder on a real disk (an overlay's upper layer can't be on every filesystem)."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="baton-test-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def make_cluster(workspace, request):
    clusters = []

    def make(*flags, name="data", env=None):
        cluster = Cluster(workspace / name, *flags, env=env)
        clusters.append(cluster)
        return cluster

    yield make
    failed = getattr(request.node, "failed", False)
    problems = []
    for cluster in reversed(clusters):
        try:
            cluster.stop()
        except AssertionError as error:
            problems.append(str(error))
        if failed:
            sys.stdout.write(f"---- log of {cluster.data.name}\n{cluster.log_text()}\n")
    assert not problems, "\n".join(problems)


LEASE_MS = 1500


@pytest.fixture
def cluster(make_cluster):
    return make_cluster("--nodes", "2", "--lease", f"{LEASE_MS}ms")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call" and outcome.get_result().failed:
        item.failed = True


def pytest_configure(config):
    if os.geteuid() != 0:
        pytest.exit("the system tests need root: they make namespaces and run CRIU", returncode=1)
