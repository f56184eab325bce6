"""Things break around a checkpoint: CRIU, disks, stored files, programs that CRIU refuses."""

import json
import os
import pathlib
import signal
import subprocess
import time

import pytest

from conftest import LEASE_MS, PROGRAMS, SteppedClock, alive, cmdline, descendants, until
from test_moves import ENDLESS, LOOP, check_one_incarnation, finish, witness_job


def controller_data(cluster):
    return cluster.data / "controller"


def store(cluster):
    """The controller's folder of checkpoints."""
    return controller_data(cluster) / "checkpoints"


def checkpoint_folder(cluster, job, number):
    return store(cluster) / str(job["id"]) / str(number)


@pytest.mark.parametrize("damage", ["delete", "truncate", "flip"])
def test_a_damaged_checkpoint_is_quarantined_and_the_one_before_is_used(make_cluster, damage):
    cluster = make_cluster("--nodes", "2", "--lease", f"{LEASE_MS}ms")
    cluster.run("loop", *LOOP, ENDLESS, 0.05, flags=["--node", "node-1", "--interval", "400ms", "--policy",
                                                     "standby=false"])
    cluster.until_checkpoint("loop", after=1)
    cluster.power_cut("node-1")
    job = cluster.job("loop")
    newest = max(int(c["number"]) for c in cluster.json("checkpoints", "loop"))
    folder = checkpoint_folder(cluster, job, newest)
    # A pack that the checkpoint before does not share.
    pages = min((folder / "packs").iterdir(), key=lambda pack: pack.stat().st_nlink)
    assert pages.stat().st_nlink == 2, "its own link, and the store's"
    if damage == "delete":
        pages.unlink()
    elif damage == "truncate":
        os.truncate(pages, 100)
    else:
        with open(pages, "r+b") as file:
            file.seek(pages.stat().st_size // 2)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
    cluster.until_running_on("loop", "node-2")
    finish(cluster)
    checkpoints = {int(c["number"]): c for c in cluster.json("checkpoints", "loop")}
    assert checkpoints[newest]["quarantined"] and "packs/" in checkpoints[newest]["quarantine_cause"]
    assert any("quarantine" in event["kind"] for event in cluster.events("loop"))


def test_a_checkpoint_folder_removed_by_hand(make_cluster):
    cluster = make_cluster("--nodes", "2", "--lease", f"{LEASE_MS}ms")
    cluster.run("loop", *LOOP, ENDLESS, 0.05, flags=["--node", "node-1", "--interval", "400ms"])
    cluster.until_checkpoint("loop", after=1)
    cluster.power_cut("node-1")
    newest = max(int(c["number"]) for c in cluster.json("checkpoints", "loop"))
    subprocess.run(["rm", "-rf", checkpoint_folder(cluster, cluster.job("loop"), newest)], check=True)
    cluster.until_running_on("loop", "node-2")
    finish(cluster)


def criu_pids(cluster, node):
    return [pid for pid in descendants(cluster.node(node)["pid"])
            if b"swrk" in cmdline(pid)]


def test_criu_killed_in_the_middle_of_dumps(cluster):
    """Whatever moment CRIU dies in, the job goes on, exactly."""
    cluster.run("loop", *LOOP, ENDLESS, 0.05, flags=["--node", "node-1", "--interval", "100ms"])
    cluster.until_checkpoint("loop")
    for round in range(20):
        def kill_criu():
            node = cluster.job("loop")["node"]  # none while it is being restored
            for pid in criu_pids(cluster, node) if node else []:
                try:
                    os.kill(pid, signal.SIGKILL)
                    return True
                except ProcessLookupError:
                    pass
            return False
        until(kill_criu, f"dump {round} is under way", every=0)
    newest = int(cluster.job("loop")["newest_checkpoint"])
    cluster.until_checkpoint("loop", after=newest)
    finish(cluster)


def test_a_program_that_criu_refuses_runs_on_unprotected(cluster):
    if not (PROGRAMS / "refused").exists():
        pytest.fail("the helper program is missing")
    cluster.run("ring", PROGRAMS / "refused", "io_uring", flags=["--interval", "200ms"])
    job = cluster.until_job("ring", lambda job: job.get("unprotected_cause"), "it is marked unprotected")
    assert "io_uring" in job["unprotected_cause"]
    assert job["state"] == "running" and not job.get("is_protected")
    assert "UNPROTECTED" in cluster.baton("ps")
    length = len(cluster.logs("ring"))
    until(lambda: len(cluster.logs("ring")) > length, "it goes on")
    assert "io_uring" in cluster.fails("migrate", "ring", "--to", "node-2")
    assert cluster.job("ring")["state"] == "running"
    cluster.baton("kill", "ring")


@pytest.fixture
def small_disk(workspace):
    """A real little filesystem that can be filled: 400 MiB ext4 on a loop device."""
    image, mount = workspace / "disk.img", workspace / "small"
    mount.mkdir()
    with open(image, "wb") as file:
        file.truncate(400 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(mount)]).returncode != 0:
        pytest.skip("no loop device can be mounted here")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def says_full(text):
    return "No space left" in text or "no space left" in text or "full" in text


def test_a_full_disk_does_not_end_a_cluster(small_disk, make_cluster):
    """A node comes back, and the controller, while what tells scripts about them can't be written."""
    cluster = make_cluster("--nodes", "2", "--lease", f"{LEASE_MS}ms", "--power-on-after", "0.3",
                           name="small/data")
    controller, before = cluster.info["controller_pid"], cluster.node("node-2")["pid"]
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass

    def started(*words):
        """What `baton up` has started since, of such a command line. The log lies on the full disk, too."""
        return [pid for pid in descendants(cluster.process.pid)
                if pid not in (before, controller) and all(word in cmdline(pid) for word in words)]

    cluster.power_cut("node-2")
    until(lambda: started(b"up-node", b"node-2"), "the node comes back")
    os.kill(controller, signal.SIGKILL)
    until(lambda: started(b"controller", b"--socket"), "and the controller")
    assert cluster.process.poll() is None
    filler.unlink()
    until(lambda: (cluster.refresh(), cluster.node("node-2")["pid"] != before
                   and cluster.info["controller_pid"] not in (0, controller))[1], "up.json is right again")
    cluster.baton("await-nodes", "node-1", "node-2")


def test_the_wall_clock_is_stepped(make_cluster, workspace):
    """Ahead by hours, then back by more: what runs, what is awaited, and who may join go by other clocks."""
    clock = SteppedClock(workspace / "clock")
    clock.set_ahead(5 * 3600)
    cluster = make_cluster("--nodes", "2", "--lease", f"{LEASE_MS}ms", "--power-on-after", "0.3", env=clock.env)
    shared = witness_job(cluster, workspace)

    def checkpoints_go_on():
        cluster.until_checkpoint("witness", after=int(cluster.job("witness")["newest_checkpoint"]))

    submitted = int(cluster.job("witness")["submitted_wall_ms"]) / 1000
    assert abs(submitted - time.time() - 5 * 3600) < 600, "the cluster does not have that clock"
    for ahead in (6, -7, 0, -1):
        clock.set_ahead(ahead * 3600)
        checkpoints_go_on()
    assert len(check_one_incarnation(shared)) == 1, "the job noticed"

    # All connections are made anew, with certificates of a time that is yet to come.
    clock.set_ahead(-8 * 3600)
    os.kill(cluster.info["controller_pid"], signal.SIGKILL)
    until(lambda: cluster.raw("ps").returncode == 0, "the controller answers")
    checkpoints_go_on()
    cluster.power_cut("node-1")
    until(lambda: len(check_one_incarnation(shared)) == 2, "its successor writes")
    cluster.baton("await-nodes", "node-1", "node-2")
    checkpoints_go_on()
    cluster.baton("migrate", "witness", "--to", "node-1")
    (shared / "stop").touch()
    assert cluster.wait("witness") == 0
    check_one_incarnation(shared)


def test_a_full_disk_costs_checkpoints_not_the_job(small_disk, make_cluster):
    """Controller and agents share the small disk: both kinds of write fail while it is full."""
    cluster = make_cluster("--nodes", "2", "--lease", f"{LEASE_MS}ms", name="small/data")
    # It says nothing while the disk is full: a write of its own would rightly fail.
    quiet = ("import signal, sys, time\nstart = time.monotonic()\n"
             "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('turns', turns)))\n"
             "turns = 0\nwhile True:\n  turns += 1\n  time.sleep(0.02)\n")
    cluster.run("loop", "/usr/bin/python3", "-u", "-c", quiet, flags=["--node", "node-1", "--interval", "200ms"])
    cluster.until_checkpoint("loop")
    filler = small_disk / "filler"
    file = open(filler, "wb", buffering=0)

    def fill():
        """Takes what retention has freed since the last time, too."""
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass
        return True
    try:
        job = cluster.until_job("loop", lambda job: fill() and says_full(job.get("last_error", "")),
                                "the full disk is reported")
        assert job["state"] == "running"
        assert cluster.job("loop")["generation"] == job["generation"]
        standing = int(job["newest_checkpoint"])
    finally:
        file.close()
        filler.unlink()
    cluster.until_checkpoint("loop", after=standing)
    cluster.baton("migrate", "loop", "--to", "node-2")
    cluster.baton("kill", "--signal", "TERM", "loop")
    assert cluster.wait("loop") == 0
    assert int(cluster.logs("loop").split()[1]) > 20
    assert [move["cause"] for move in cluster.job("loop")["moves"]] == ["user"], "it was restarted on the way"


@pytest.mark.parametrize("point", [
    "agent.freeze.before_dump", "dump.frozen", "agent.upload.before_commit", "ship.before_commit",
    "store.before_rename", "agent.freeze.before_arm", "agent.restore.before_fetch",
    "agent.restore.before_criu", "restore.before_criu",
])
def test_a_migration_that_fails_leaves_the_job_where_it_was(make_cluster, workspace, point):
    faults = workspace / "faults"
    faults.write_text("")
    cluster = make_cluster("--nodes", "2", "--lease", f"{LEASE_MS}ms", env={"BATON_FAULTS_FILE": str(faults)})
    cluster.run("loop", *LOOP, ENDLESS, 0.05, flags=["--node", "node-1", "--interval", "400ms"])
    cluster.until_checkpoint("loop")
    faults.write_text(f"{point}=errors")
    err = cluster.fails("migrate", "loop", "--to", "node-2")
    faults.write_text("")
    assert "injected" in err
    job = cluster.until_running("loop")
    assert job["node"] == "node-1"
    cluster.baton("migrate", "loop", "--to", "node-2")
    finish(cluster)


def test_the_target_dies_during_a_migration(make_cluster, workspace):
    faults = workspace / "faults"
    faults.write_text("")
    cluster = make_cluster("--nodes", "2", "--lease", f"{LEASE_MS}ms", env={"BATON_FAULTS_FILE": str(faults)})
    cluster.run("loop", *LOOP, ENDLESS, 0.05, flags=["--node", "node-1", "--interval", "400ms"])
    cluster.until_checkpoint("loop")
    faults.write_text("agent.restore.before_criu=delay:60000")
    mover = subprocess.Popen([__import__("conftest").BATON, "--controller", f"unix:{cluster.socket}", "migrate",
                              "loop", "--to", "node-2"], stderr=subprocess.PIPE)
    cluster.until_job("loop", lambda job: job["state"] == "migrating", "it migrates")
    until(lambda: any(event["kind"] == "frozen" for event in cluster.events("loop")), "the source is held")
    cluster.power_cut("node-2")
    faults.write_text("")
    assert mover.wait(timeout=60) != 0
    assert cluster.until_running("loop")["node"] == "node-1"
    finish(cluster)


def test_the_source_agent_dies_while_the_job_is_held(make_cluster, workspace):
    faults = workspace / "faults"
    faults.write_text("")
    cluster = make_cluster("--nodes", "2", "--lease", f"{LEASE_MS}ms", env={"BATON_FAULTS_FILE": str(faults)})
    cluster.run("loop", *LOOP, ENDLESS, 0.05, flags=["--node", "node-1", "--interval", "400ms"])
    cluster.until_checkpoint("loop")
    faults.write_text("agent.restore.before_criu=delay:1000")
    mover = subprocess.Popen([__import__("conftest").BATON, "--controller", f"unix:{cluster.socket}", "migrate",
                              "loop", "--to", "node-2"])
    until(lambda: any(event["kind"] == "frozen" for event in cluster.events("loop")), "the source is held")
    os.kill(cluster.agent_pid("node-1"), signal.SIGKILL)
    faults.write_text("")
    mover.wait(timeout=60)
    finish(cluster)


def test_a_job_that_fails_is_restarted_as_asked(cluster):
    cluster.run("flaky", "sh", "-c", "echo try; exit 3", flags=["--restart", "scratch:2"])
    assert cluster.wait("flaky") == 3
    job = cluster.job("flaky")
    assert int(job["restarts"]) == 2
    cluster.run("steady", "sh", "-c", "echo once; exit 3")
    assert cluster.wait("steady") == 3
    assert int(cluster.job("steady").get("restarts", 0)) == 0


def test_a_program_that_could_not_be_restored_is_found_in_time(cluster):
    """A child in a mount namespace of its own: the dump succeeds, the restore can't."""
    cluster.run("nested", "unshare", "-m", "sleep", "1000", flags=["--interval", "200ms", "--cap-add", "SYS_ADMIN"])
    job = cluster.until_job("nested", lambda job: job.get("unprotected_cause"), "the preflight says so")
    assert job["state"] == "running"
    cluster.fails("migrate", "nested", "--to", "node-2")
    assert cluster.job("nested")["state"] == "running"
    cluster.baton("kill", "nested")


def test_a_power_cut_leaves_the_network_of_the_others_alone(make_cluster):
    """The controller's hardware address was that of one of the nodes, and changed when this one was cut off."""
    cluster = make_cluster("--nodes", "3")

    def address():
        found = subprocess.run(["nsenter", "--target", str(cluster.process.pid), "--net", "ip", "-json", "link", "show",
                                "dev", "baton0"], capture_output=True, check=True)
        return json.loads(found.stdout)[0]["address"]
    before = address()
    for number in (1, 2, 3):
        cluster.power_cut(f"node-{number}")
        until(lambda: not cluster.refresh() and not cluster.node(f"node-{number}")["up"], "it is off")
        assert address() == before


def lose_records(cluster, how):
    """The controller's database goes as by a disk that fails; `up` starts the controller again."""
    controller = cluster.info["controller_pid"]
    database = controller_data(cluster) / "state.db"
    os.kill(controller, signal.SIGSTOP)
    if how == "delete":
        for path in database.parent.glob("state.db*"):
            path.unlink()
    else:
        # With its journal, which would mend it.
        for path in database.parent.glob("state.db-*"):
            path.unlink()
        with open(database, "r+b") as file:
            if how == "truncate":
                file.truncate(file.seek(0, os.SEEK_END) // 2 + 100)
            else:
                file.seek(3)
                file.write(b"\xff")
    os.kill(controller, signal.SIGKILL)
    until(lambda: not alive(controller), "the controller is dead")
    return database


def test_a_job_that_left_nothing_runs_on_when_records_are_lost(make_cluster):
    """Neither a checkpoint nor output: that a node had joined says that this is no first start."""
    cluster = make_cluster("--nodes", "1", "--lease", f"{LEASE_MS}ms")
    cluster.run("plain", "sleep", "100000", flags=["--no-checkpoint"])
    before = cluster.until_running("plain")
    lose_records(cluster, "delete")
    until(lambda: cluster.raw("ps").returncode == 0, "the controller answers")
    now = cluster.until_job("plain", lambda job: job["state"] == "running", "it runs")
    assert now["generation"] == before["generation"]
    cluster.baton("kill", "plain")


@pytest.mark.parametrize("how", ["delete", "truncate", "header"])
def test_lost_records_are_put_together_again(make_cluster, workspace, how):
    """Jobs run on through it, each once, and are moved afterwards; what had ended stays so."""
    cluster = make_cluster("--nodes", "2", "--lease", f"{LEASE_MS}ms")
    shared = witness_job(cluster, workspace, "--restart", "checkpoint:7")
    cluster.run("loop", *LOOP, ENDLESS, 0.05, flags=["--node", "node-2", "--interval", "400ms"])
    cluster.run("plain", "sleep", "100000", flags=["--no-checkpoint"])  # no node's list but one has it
    cluster.run("over", *LOOP, 20, 0.05, flags=["--interval", "400ms"])
    assert cluster.wait("over") == 0
    cluster.until_checkpoint("loop")
    cluster.until_running("plain")
    before = {name: cluster.job(name) for name in ("witness", "loop", "plain", "over")}
    printed = cluster.logs("over")
    newest = int(before["witness"]["newest_checkpoint"])
    database = lose_records(cluster, how)

    until(lambda: cluster.raw("ps").returncode == 0, "the controller answers")
    cluster.refresh()
    for name in ("witness", "loop", "plain"):
        cluster.until_job(name, lambda job: job["state"] == "running", f"{name} runs")
        now = cluster.job(name)
        for field in ("id", "node", "generation", "spec"):
            assert now[field] == before[name][field], f"{field} of {name}"
    over = cluster.job("over")
    assert over["state"] == "stopped" and "may have ended" in over["reason"]
    assert cluster.logs("over") == printed
    said = "\n".join(event["text"] for event in cluster.events() if event["kind"] == "records-lost")
    for words in ("Jobs that run: ", "may have ended: over.", "which checkpoints were pinned",
                  "`baton restore over`"):
        assert words in said, said
    if how == "header":
        assert (database.parent / "state.db.damaged-1").exists(), "nothing is deleted"
        assert "state.db.damaged-1" in said

    # It works as before, and nothing ran twice.
    cluster.until_checkpoint("witness", after=newest + 1)
    assert len(check_one_incarnation(shared)) == 1, "the job noticed"
    cluster.baton("migrate", "witness", "--to", "node-2")
    assert int(cluster.job("witness")["generation"]) > 1000
    until(lambda: len(check_one_incarnation(shared)) == 2, "its successor writes")
    (shared / "stop").touch()
    assert cluster.wait("witness") == 0
    check_one_incarnation(shared)
    cluster.baton("restore", "over")
    cluster.until_running("over")
    assert cluster.wait("over") == 0
    finish(cluster)
