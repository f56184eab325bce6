#!/usr/bin/python3
"""Everything breaks, for minutes, on a real cluster of four nodes on this machine; the jobs must not notice.

Twelve jobs that check themselves run while agents, nodes, the controller and CRIU are killed or stopped,
links are cut both ways and one way or slowed down, disks are full, stored copies are damaged, the wall clock
is stepped, and users move, drain and checkpoint. From outside, every few milliseconds, it is looked at
whether two incarnations of a job run. At the end all is healed, every job has to run, and says whether its
memory, its files and its kernel objects are right; what it printed must be exact, also for somebody who
followed it all along.

    chaos.py [--faults 300] [--seconds 600] [--seed N] [--json FILE] [--keep DIR]

Ends with 1 when a promise was broken; then the evidence is kept. The seed chooses the faults and their order,
not the moment in which each meets the cluster.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))
sys.dont_write_bytecode = True
from conftest import BATON, PROGRAMS, Cluster, SteppedClock, alive, cmdline, descendants, until  # noqa: E402

LEASE_MS = 3000
NODES = 4
PATIENCE = 120  # seconds in which everything runs again once nothing breaks any more
MARK = "CHAOS_JOB"

COUNTER = ["/usr/bin/python3", "-u", "-c",
           "import signal,sys,time\nended=[]\nsignal.signal(signal.SIGTERM,lambda *_:ended.append(1))\ni=0\n"
           "while not ended:\n  print(i)\n  i+=1\n  time.sleep(float(sys.argv[1]))\nprint('END')"]
CHAIN = ["/usr/bin/python3", "-u", "-c",
         "import hashlib,signal,time\nended=[]\nsignal.signal(signal.SIGTERM,lambda *_:ended.append(1))\n"
         "h=b''\ni=0\nwhile not ended:\n  h=hashlib.sha256(h+b'%d'%i).digest()\n  print(i,h.hex()[:16])\n  i+=1\n"
         "  time.sleep(0.02)\nprint('END')"]
PIPES = ["/bin/sh", "-c",
         "trap : TERM; (i=0; while :; do echo $i; i=$((i+1)); sleep 0.03; done) | while read n; do echo $n; done"]


def memwork(mb, *more):
    return [PROGRAMS / "memwork", "--mb", mb, "--threads", 2, "--spin", 0, "--pages-per-ms", 1, "--result", "-", *more]


JOBS = {
    "counter": COUNTER + ["0.02"], "chatter": COUNTER + ["0.002"], "chain": CHAIN, "pipes": PIPES,
    "memory": memwork(24), "bigger": memwork(96), "family": memwork(16, "--processes", 3),
    "churn": memwork(16, "--churn", 1),
    "rewrite": [PROGRAMS / "filework", "rewrite", "file", 4, 20_000],
    "replace": [PROGRAMS / "filework", "replace", "file", 2, 20_000],
    "events": [PROGRAMS / "statework", "events", 20_000], "locks": [PROGRAMS / "statework", "locks", 20_000],
}


def state_of(pid):
    """State letter, start time: what a process is doing, and whether it is still the same one."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return fields[0], fields[19]
    except (FileNotFoundError, ProcessLookupError):
        return "X", ""


def runs(pid, start):
    """The process executes its program, now: it is neither stopped (a source that is held stands so) nor a
    zombie, nor still being put together by CRIU, whose code is in memory of no file."""
    try:
        for _ in range(50):
            state, started = state_of(pid)
            if started != start or state not in "RSD":
                return False
            fields = pathlib.Path(f"/proc/{pid}/syscall").read_text().split()
            if len(fields) < 3:
                continue  # on a processor, where nobody can tell: look again
            at = int(fields[-1], 16)
            for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
                low, high = (int(end, 16) for end in line.split()[0].split("-"))
                if low <= at < high:
                    return line.split()[4] != "0" or line.endswith("[vdso]")
            return False
    except (OSError, IndexError, ValueError):
        pass
    return False


class Watcher(threading.Thread):
    """Looks from outside whether two incarnations of a job run at once. Two readings are not of one
    instant: the first is read again after the second before anything is said."""

    def __init__(self):
        super().__init__(daemon=True)
        self.found, self.looks, self.done = [], 0, threading.Event()
        self.known = {}  # pid -> start time, job, pid namespace; or None for what is nobody's

    def identify(self, pid):
        state, start = state_of(pid)
        known = self.known.get(pid)
        if known and known[0] == start:
            return known
        job = space = None
        try:
            if cmdline(pid)[0:1] and b"baton-init" not in cmdline(pid)[0] and cmdline(pid)[0] != b"baton":
                for word in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    if word.startswith(MARK.encode() + b"="):
                        job, space = word.split(b"=", 1)[1].decode(), os.readlink(f"/proc/{pid}/ns/pid")
        except (OSError, IndexError):
            return start, None, None  # may be on its way; look again
        if job or state != "X":
            self.known[pid] = (start, job, space)
        return start, job, space

    def running(self):
        spaces = collections.defaultdict(dict)  # job -> pid namespace -> a process that runs
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            start, job, space = self.identify(int(entry))
            if job and state_of(int(entry))[0] in "RSD":
                spaces[job].setdefault(space, (int(entry), start))
        return spaces

    def describe(self, pid):
        try:
            status = pathlib.Path(f"/proc/{pid}/cgroup").read_text().split()[0]
            return f"pid {pid} ({state_of(pid)[0]}, {status}, {cmdline(pid)[0].decode()})"
        except (OSError, IndexError):
            return f"pid {pid}"

    def run(self):
        while not self.done.is_set():
            self.looks += 1
            for job, spaces in self.running().items():
                if len(spaces) < 2:
                    continue
                # All of them twice more: whoever runs in the last look and in the one before ran beside
                # whoever was looked at between.
                first = [space for space, (pid, start) in spaces.items() if runs(pid, start)]
                still = [space for space in first if runs(*spaces[space])]
                if len(still) > 1:
                    self.found.append(f"{job} runs {len(still)} times: " + "; ".join(map(self.describe, (
                        spaces[space][0] for space in still))))
            if len(self.known) > 20_000:
                self.known.clear()
            self.done.wait(0.01)


class Follower(threading.Thread):
    """Somebody who reads a job's output as it comes: shown once, never taken back."""

    def __init__(self, cluster, job):
        super().__init__(daemon=True)
        self.seen = bytearray()
        self.process = subprocess.Popen([BATON, "--controller", f"unix:{cluster.socket}", "logs", "-f", job],
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def run(self):
        while data := os.read(self.process.stdout.fileno(), 65536):
            self.seen += data


class Chaos:
    def __init__(self, options):
        self.options = options
        self.random = random.Random(options.seed)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="baton-chaos-", dir="/var/tmp"))
        self.folder.chmod(0o755)
        self.disk = self.folder / "disk"
        self.counts = collections.Counter()
        self.skipped = collections.Counter()
        self.violations = []
        self.fills = []  # from when to when the disk was full, wall clock
        self.full = []  # jobs that a write of their own ended while the disk was full
        self.journal = open(self.folder / "faults.log", "w", buffering=1)
        self.clock = SteppedClock(self.folder / "clock")
        self.steps = [(0, 0, float("inf"))]  # seconds by which the cluster's wall clock was ahead, and from when to when
        self.healers = []  # (when, what): what a fault leaves to be undone later
        self.slow_links = subprocess.run(["tc", "-V"], capture_output=True).returncode == 0

    # ---- set-up
    def start(self):
        self.disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3g,mode=755", "baton-chaos", self.disk], check=True)
        policy = self.folder / "policy.toml"
        policy.write_text("migrate_on_overload = false\nmemory_threshold = 1.0\ncooldown_ms = 1000\n")
        self.cluster = Cluster(self.disk / "data", "--nodes", str(NODES), "--lease", f"{LEASE_MS}ms",
                               "--power-on-after", "2", "--policy", str(policy), env=self.clock.env)
        self.clock.set_ahead(-7200)
        for name, command in JOBS.items():
            self.cluster.run(name, *command, flags=["--interval", "700ms", "--env", f"{MARK}={name}", "--workdir", "/tmp"])
        for name in JOBS:
            self.cluster.until_checkpoint(name)
        submitted = int(self.cluster.job("counter")["submitted_wall_ms"]) / 1000
        assert abs(submitted + 7200 - time.time()) < 600, "the cluster's clock can't be stepped"
        self.clock.set_ahead(0)
        self.followers = {name: Follower(self.cluster, name) for name in ("counter", "chatter", "chain")}
        for follower in self.followers.values():
            follower.start()
        # From its first answer on it is one that waits for a controller that is away.
        until(lambda: all(follower.seen for follower in self.followers.values()), "all followers read")
        self.watcher = Watcher()
        self.watcher.start()
        self.prove_the_watcher()

    def prove_the_watcher(self):
        """What would be a second incarnation is seen as one."""
        doubles = [subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "sleep", "1000"],
                                    env=dict(os.environ, **{MARK: "double"})) for _ in range(2)]
        until(lambda: any(found.startswith("double ") for found in self.watcher.found), "the watcher sees a double")
        for double in doubles:
            double.kill()
            double.wait()
        until(lambda: "double" not in self.watcher.running(), "the double is gone")
        self.watcher.found = [found for found in self.watcher.found if not found.startswith("double ")]

    def note(self, text):
        self.journal.write(f"{time.strftime('%H:%M:%S')}.{int(time.time() * 1000) % 1000:03d} {text}\n")

    def later(self, seconds, what):
        self.healers.append((time.monotonic() + seconds, what))

    def heal(self, all_of_them=False):
        now = time.monotonic()
        due = [healer for healer in self.healers if all_of_them or healer[0] <= now]
        self.healers = [healer for healer in self.healers if healer not in due]
        for _, what in due:
            what()

    # ---- what there is to break
    def node(self):
        """A node that is on; its entry is as it is now."""
        self.cluster.refresh()
        nodes = [node for node in self.cluster.info["nodes"] if node["up"] and alive(node["pid"])]
        return self.random.choice(nodes) if nodes else None

    def agent(self, node):
        return node and self.cluster.agent_pid(node["name"])

    def signal(self, pid, number):
        try:
            os.kill(pid, number)
            return True
        except ProcessLookupError:
            return False

    def in_network(self, pid, *command):
        return subprocess.run(["nsenter", "--target", str(pid), "--net", *command], capture_output=True).returncode == 0

    def kill_agent(self):
        pid = self.agent(self.node())
        return bool(pid) and self.signal(pid, signal.SIGKILL)

    def pause(self, pid, seconds):
        if not pid or not self.signal(pid, signal.SIGSTOP):
            return False
        self.later(seconds, lambda: self.signal(pid, signal.SIGCONT))
        return True

    def stop_agent_shortly(self):
        return self.pause(self.agent(self.node()), self.random.uniform(0.1, 0.8))

    def stop_agent_past_its_lease(self):
        return self.pause(self.agent(self.node()), LEASE_MS / 1000 * self.random.uniform(1.2, 2.5))

    def cut_power(self):
        up = [node for node in self.cluster.info["nodes"] if node["up"] and alive(node["pid"])]
        node = self.node() if len(up) > 1 else None
        return bool(node) and self.signal(node["pid"], signal.SIGKILL)

    def kill_controller(self):
        self.cluster.refresh()
        pid = self.cluster.info["controller_pid"]
        return bool(pid) and self.signal(pid, signal.SIGKILL)

    def stop_controller(self):
        self.cluster.refresh()
        pid = self.cluster.info["controller_pid"]
        return self.pause(pid, self.random.uniform(0.1, 2.5))

    def kill_criu(self):
        end = time.monotonic() + 1.5  # it comes and goes
        while time.monotonic() < end:
            node = self.node()
            pids = [pid for pid in descendants(node["pid"]) if b"swrk" in cmdline(pid)] if node else []
            if pids and self.signal(self.random.choice(pids), signal.SIGKILL):
                return True
        return False

    def stop_criu(self):
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            node = self.node()
            pids = [pid for pid in descendants(node["pid"]) if b"swrk" in cmdline(pid)] if node else []
            if pids:
                return self.pause(self.random.choice(pids), self.random.uniform(0.2, 2))
        return False

    def cut_link(self):
        node = self.node()
        if not node or not self.in_network(node["pid"], "ip", "link", "set", "eth0", "down"):
            return False
        self.later(self.random.uniform(0.2, 4), lambda: self.in_network(node["pid"], "ip", "link", "set", "eth0", "up"))
        return True

    def one_way(self, pid, address, seconds):
        if not self.in_network(pid, "ip", "route", "add", "blackhole", f"{address}/32"):
            return False
        self.later(seconds, lambda: self.in_network(pid, "ip", "route", "del", "blackhole", f"{address}/32"))
        return True

    def cut_link_to_controller(self):
        node = self.node()
        return bool(node) and self.one_way(node["pid"], "10.77.0.1", self.random.uniform(0.2, 4))

    def cut_link_from_controller(self):
        node = self.node()
        return bool(node) and self.one_way(self.cluster.process.pid, node["address"], self.random.uniform(0.2, 4))

    def slow_link(self):
        node = self.node()
        if not node or not self.in_network(node["pid"], "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate",
                                           "20mbit", "burst", "32kbit", "latency", "200ms"):
            return False
        self.later(self.random.uniform(1, 4), lambda: self.in_network(node["pid"], "tc", "qdisc", "del", "dev", "eth0", "root"))
        return True

    def fill_disk(self):
        filler = self.disk / "filler"
        try:
            with open(filler, "wb", buffering=0) as file:
                block = b"x" * (8 << 20)
                while True:
                    file.write(block)
        except OSError:
            pass
        since = time.time()

        def empty():
            filler.unlink(missing_ok=True)
            self.fills.append((since, time.time()))
        self.later(self.random.uniform(0.3, 2), empty)
        return True

    def damage_a_copy(self):
        """One bit of what a node keeps for a job that runs elsewhere."""
        found = [pathlib.Path(folder) / name for number in range(1, NODES + 1)
                 for folder, _, names in os.walk(self.cluster.data / f"node-{number}/copies")
                 for name in names if name != "staged"]
        if not found:
            return False
        path = self.random.choice(found)
        try:
            with open(path, "r+b") as file:
                size = os.fstat(file.fileno()).st_size
                if not size:
                    return False
                file.seek(self.random.randrange(size))
                byte = file.read(1)[0]
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte ^ 1 << self.random.randrange(8)]))
            return True
        except (OSError, IndexError):
            return False

    def step_clock(self):
        ahead = self.random.choice([-1, 1]) * self.random.choice([2, 600, 10_000])
        seconds = self.random.uniform(0.5, 6)
        self.steps.append((ahead, time.time(), time.time() + seconds + 2))
        self.clock.set_ahead(ahead)
        self.later(seconds, lambda: self.clock.set_ahead(0))
        return True

    # ---- what users do meanwhile
    def user(self, *arguments):
        """In the background; that it fails in this weather is no fault."""
        process = subprocess.Popen([BATON, "--controller", f"unix:{self.cluster.socket}", *map(str, arguments)],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        threading.Thread(target=process.wait, daemon=True).start()
        return True

    def migrate(self):
        return self.user("migrate", self.random.choice(list(JOBS)))

    def checkpoint(self):
        return self.user("checkpoint", self.random.choice(list(JOBS)))

    def drain(self):
        name = f"node-{self.random.randint(1, NODES)}"
        self.later(self.random.uniform(1, 4), lambda: self.user("uncordon", name))
        return self.user("drain", name, "--no-wait")

    FAULTS = [(kill_agent, 4), (stop_agent_shortly, 3), (stop_agent_past_its_lease, 2), (cut_power, 3),
              (kill_controller, 3), (stop_controller, 2), (kill_criu, 4), (stop_criu, 2), (cut_link, 3),
              (cut_link_to_controller, 2), (cut_link_from_controller, 2), (slow_link, 2), (fill_disk, 1),
              (damage_a_copy, 3), (step_clock, 2), (migrate, 5), (checkpoint, 2), (drain, 1)]

    # ---- the run
    def run(self):
        kinds, weights = zip(*self.FAULTS)
        end = time.monotonic() + self.options.seconds
        pause = self.options.seconds / self.options.faults
        while sum(self.counts.values()) < self.options.faults and time.monotonic() < end:
            began = time.monotonic()
            self.heal()
            kind = self.random.choices(kinds, weights)[0]
            if kind(self):
                self.counts[kind.__name__] += 1
                self.note(kind.__name__)
            else:
                self.skipped[kind.__name__] += 1
            rest = pause * self.random.uniform(0.2, 1.6) - (time.monotonic() - began)
            while rest > 0 and time.monotonic() < end:
                time.sleep(min(rest, 0.05))
                rest -= 0.05
                self.heal()
            if self.cluster.process.poll() is not None:
                self.violations.append("the cluster ended")
                return

    def violation(self, text):
        self.violations.append(text)
        self.note(f"VIOLATION {text}")

    def settle(self):
        self.note("healing")
        self.heal(all_of_them=True)
        for number in range(1, NODES + 1):
            until(lambda: self.cluster.raw("uncordon", f"node-{number}").returncode == 0, "all nodes are open")
        until(lambda: all(node["up"] for node in self.cluster.refresh() or self.cluster.info["nodes"]), "all nodes are on")
        for name in JOBS:
            try:
                before = len(self.cluster.events())
                job = self.cluster.until_job(name, lambda job: job["state"] == "running" or job["state"] in
                                             ("failed", "exited", "stopped"), f"{name} runs", timeout=PATIENCE)
                ended = int(job.get("ended_wall_ms", 0)) / 1000
                at = [ended - ahead for ahead, since, until in self.steps if since <= ended - ahead <= until]
                if job["state"] == "exited" and any(
                        since <= moment <= until + 1 for since, until in self.fills for moment in at):
                    # A write of its own met the full disk: that is what such a program does anywhere.
                    self.full.append(name)
                    continue
                if job["state"] != "running":
                    self.violation(f"lost job: {name} is {job['state']}: {job.get('reason', '')}"
                                   f" ({before} events, exit code {job.get('exit_code')})")
                    continue
                newest = int(job.get("newest_checkpoint", 0))
                self.cluster.until_checkpoint(name, after=newest, timeout=PATIENCE)
            except AssertionError as error:
                self.violation(f"lost job: {str(error).splitlines()[0]}")

    def check(self):
        """Each job says what it found; what it printed is compared."""
        for name, command in JOBS.items():
            if name in self.full or any(f"lost job: {name} " in violation for violation in self.violations):
                continue
            try:
                self.check_job(name, command)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                self.violation(f"{name}: {str(error).splitlines()[0]}")

    def check_job(self, name, command):
        if command[0] == PROGRAMS / "memwork":
            self.cluster.baton("kill", "--signal", "USR1", name)
            self.cluster.wait(name, timeout=PATIENCE)
            if not self.cluster.logs(name).startswith(b"OK "):
                self.violation(f"wrong memory: {name}: {self.cluster.logs(name)[:200]}")
            return
        if name == "pipes":
            self.cluster.baton("stop", name, timeout=PATIENCE)
        else:
            self.cluster.baton("kill", "--signal", "TERM", name)
            code = self.cluster.wait(name, timeout=PATIENCE)
            if code != 0:
                self.violation(f"{name} ended with {code}")
        output = self.cluster.logs(name)
        lines = output.split(b"\n")
        if b"FAIL" in output:
            self.violation(f"wrong file or kernel object: {name}: {output[output.index(b'FAIL'):][:200]}")
        numbers = [line.split()[0] for line in lines if line and line not in (b"END", b"Terminated")]
        wrong = next((i for i, number in enumerate(numbers) if number != b"%d" % i), None)
        if wrong is not None:
            self.violation(f"wrong output: {name}: line {wrong} is {numbers[wrong]}")
        follower = self.followers.get(name)
        if follower:
            follower.process.wait(timeout=PATIENCE)
            follower.join()
            if bytes(follower.seen) != output:
                at = len(os.path.commonprefix([bytes(follower.seen), output]))
                self.violation(f"wrong output: who followed {name} saw something else from byte {at} on "
                               f"({len(follower.seen)} bytes instead of {len(output)})")

    def report(self):
        moves = collections.Counter()
        for name in JOBS:
            for move in self.cluster.job(name).get("moves", []):
                moves[(move["cause"], "ok" if move.get("ok") else "failed")] += 1
        for event in [found for found in self.watcher.found if not found.startswith("double ")][:20]:
            self.violation(f"second incarnation: {event}")
        result = {"seed": self.options.seed, "faults": dict(self.counts), "faults_in_all": sum(self.counts.values()),
                  "could_not_be_done": dict(self.skipped), "looks_from_outside": self.watcher.looks,
                  "moves": {f"{cause}, {outcome}": count for (cause, outcome), count in sorted(moves.items())},
                  "jobs": len(JOBS), "ended_by_a_full_disk": self.full, "violations": self.violations}
        print(f"\n{'FAULT':<28}COUNT")
        for kind, count in sorted(self.counts.items()):
            print(f"{kind:<28}{count}")
        print(f"{'in all':<28}{sum(self.counts.values())}\n")
        print(f"{'MOVES AND RECOVERIES (of those kept)':<44}COUNT")
        for what, count in result["moves"].items():
            print(f"{what:<44}{count}")
        if self.full:
            print(f"\nended by a full disk that their own writes met: {', '.join(self.full)}")
        print(f"\n{self.watcher.looks} looks from outside for a second incarnation")
        print(f"violations: {len(self.violations)}")
        for violation in self.violations:
            print(f"  {violation}")
        if self.options.json:
            pathlib.Path(self.options.json).write_text(json.dumps(result, indent=1) + "\n")
        return result

    def finish(self):
        """Takes all down; keeps logs, databases and output when something was wrong."""
        self.heal(all_of_them=True)
        if hasattr(self, "watcher"):
            self.watcher.done.set()
            self.watcher.join()
        for follower in getattr(self, "followers", {}).values():
            follower.process.kill()
            follower.process.wait()
        try:
            if hasattr(self, "cluster"):
                self.cluster.stop()
        finally:
            if self.violations:
                keep = pathlib.Path(self.options.keep or f"build/chaos-{self.options.seed}")
                keep.mkdir(parents=True, exist_ok=True)
                for path in [self.disk / "data.log", self.folder / "faults.log", self.disk / "data/controller/state.db"]:
                    if path.exists():
                        shutil.copy(path, keep)
                for path in self.disk.glob("data/controller/logs/*"):
                    if path.is_file():
                        shutil.copy(path, keep)
                print(f"evidence: {keep}")
            subprocess.run(["umount", "-l", self.disk], check=False)
            shutil.rmtree(self.folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--json", default="")
    parser.add_argument("--keep", default="")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 31)
    print(f"seed {options.seed}: {options.faults} faults in {options.seconds:.0f} s", flush=True)
    chaos = Chaos(options)
    try:
        chaos.start()
        chaos.run()
        chaos.settle()
        chaos.check()
        result = chaos.report()
    except BaseException as error:
        chaos.violations.append(f"the run itself: {type(error).__name__}: {error}")
        raise
    finally:
        chaos.finish()
    return 1 if result["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
