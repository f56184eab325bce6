"""Checkpoints where they are needed before they are needed: on a standby, and at a move's target."""

import json
import os
import signal

from conftest import LEASE_MS, PROGRAMS, alive, until

MEMWORK = [PROGRAMS / "memwork", "--threads", 2, "--spin", 0, "--pages-per-ms", 2, "--result", "-"]


def three_nodes(make_cluster, *flags, **kwargs):
    return make_cluster("--nodes", "3", "--lease", f"{LEASE_MS}ms", *flags, **kwargs)


def run_memwork(cluster, name="work", mb=64, flags=()):
    cluster.run(name, *MEMWORK, "--mb", mb, flags=["--node", "node-1", "--interval", "400ms", "--policy",
                                                                "migrate_on_overload=false", *flags])
    return cluster.until_checkpoint(name)


def check_memory(cluster, name="work"):
    """The program looks at every byte of its memory and says what it found."""
    cluster.baton("kill", "--signal", "USR1", name)
    cluster.until_output(name, b"\n")
    assert cluster.logs(name).startswith(b"OK "), cluster.logs(name)
    assert cluster.wait(name) == 0


def standby(cluster, name="work", other_than=""):
    """The node that stands by with a checkpoint."""
    job = cluster.until_job(
        name, lambda job: int(job.get("standby_checkpoint", 0)) > 0 and job["standby"] != other_than,
        f"{name} has a standby other than \"{other_than}\"")
    return job["standby"]


def copies(cluster, node):
    """The copies that a node keeps for jobs that run elsewhere."""
    return list(cluster.data.glob(f"**/{node}/**/copies/*/staged"))


def test_a_recovery_goes_to_the_standby(make_cluster):
    cluster = three_nodes(make_cluster)
    run_memwork(cluster)
    there = standby(cluster)
    assert there != "node-1" and copies(cluster, there)
    assert there in cluster.baton("inspect", "work")
    cluster.power_cut("node-1")
    job = cluster.until_job("work", lambda job: job["state"] == "running" and job["node"] != "node-1", "recovered")
    assert job["node"] == there
    assert job["moves"][-1]["cause"] == "node-lost"
    again = standby(cluster, other_than=there)
    assert again not in ("node-1", there)
    check_memory(cluster)
    until(lambda: not copies(cluster, again), "nothing is kept for a job that has ended")


def test_another_node_stands_by_when_the_first_is_lost_or_cordoned(make_cluster):
    cluster = three_nodes(make_cluster)
    run_memwork(cluster, mb=16)
    first = standby(cluster)
    cluster.power_cut(first)
    second = standby(cluster, other_than=first)
    assert second not in ("node-1", first)
    cluster.baton("migrate", "work", "--to", second)
    cluster.until_running_on("work", second)
    third = standby(cluster, other_than=second)
    assert third == "node-1"
    cluster.baton("cordon", "node-1")
    cluster.until_job("work", lambda job: not job.get("standby"), "a cordoned node stands by for nobody")
    until(lambda: not copies(cluster, "node-1"), "its copy is gone")
    cluster.baton("uncordon", "node-1")
    assert standby(cluster) == "node-1"
    check_memory(cluster)


def test_a_restarted_agent_and_a_restarted_controller_keep_the_standby(make_cluster):
    cluster = three_nodes(make_cluster)
    run_memwork(cluster, mb=16)
    there = standby(cluster)
    for pid in (cluster.agent_pid(there), cluster.info["controller_pid"]):
        cluster.refresh()
        newest = int(cluster.job("work")["newest_checkpoint"])
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid), "it is gone")

        def newer(newest=newest):
            result = cluster.raw("inspect", "work", "--json")
            job = json.loads(result.stdout) if result.returncode == 0 else {}
            return job.get("standby") and int(job.get("standby_checkpoint", 0)) > newest
        until(newer, "the standby follows")
    check_memory(cluster)


def test_a_move_ships_only_the_rest_while_the_job_stands_still(make_cluster):
    cluster = make_cluster("--nodes", "2", "--lease", f"{LEASE_MS}ms")
    cluster.run("work", *MEMWORK, "--mb", 200, flags=["--node", "node-1", "--interval", "1h", "--policy",
                                                     "standby=false"])
    cluster.until_running("work")
    cluster.baton("migrate", "work", "--to", "node-2")
    rounds = [event["text"] for event in cluster.events("work") if event["kind"] == "staged"]
    assert len(rounds) >= 2, "nothing was there: one checkpoint for all, another for what changed"
    sizes = [float(text.split(": ")[2].split(" MiB")[0]) for text in rounds]
    assert sizes[0] > 20 * sizes[-1] or sizes[-1] < 20, sizes
    assert cluster.job("work")["moves"][-1]["stage_ms"] > 0
    check_memory(cluster)


def test_a_target_that_dies_during_the_rounds_costs_nothing(make_cluster):
    cluster = make_cluster("--nodes", "2", "--lease", f"{LEASE_MS}ms",
                           env={"BATON_FAULTS": "agent.stage.before_keep=crash"})
    cluster.run("work", *MEMWORK, "--mb", 32, flags=["--node", "node-1", "--interval", "400ms", "--policy",
                                                    "standby=false"])
    cluster.until_checkpoint("work")
    result = cluster.raw("migrate", "work", "--to", "node-2")
    job = cluster.until_running("work")
    assert job["node"] in ("node-1", "node-2")
    assert (result.returncode == 0) == (job["node"] == "node-2")
    check_memory(cluster)


def test_no_standby_where_none_is_wanted(make_cluster):
    cluster = three_nodes(make_cluster)
    run_memwork(cluster, mb=16, flags=["--policy", "standby=false"])
    cluster.until_checkpoint("work", after=2)
    assert not cluster.job("work").get("standby")
    assert not copies(cluster, "node-2") and not copies(cluster, "node-3")
    check_memory(cluster)
