"""What a user types first: run, logs, wait, ps, inspect, stop, kill, rm; and what is refused."""

import json

import pytest

from conftest import BATON, until


def test_output_and_exit_code_reach_the_terminal(cluster):
    result = cluster.raw("run", "--", "sh", "-c", "echo hello; echo problem >&2; exit 7")
    assert result.returncode == 7
    assert result.stdout == b"hello\nproblem\n"


def test_arguments_environment_and_folder_arrive_as_they_are(cluster):
    nasty = ["it's", 'a "quote"', "new\nline", "", "$HOME `id` \\", "ü€", "-x", "--"]
    result = cluster.raw("run", "--env", "GREETING=a=b c\n'd'", "--workdir", "/usr", "--",
                         "/usr/bin/python3", "-c",
                         "import sys,os,json;print(json.dumps([sys.argv[1:],os.environ['GREETING'],os.getcwd()]))",
                         *nasty)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [nasty, "a=b c\n'd'", "/usr"]


def test_user_and_private_files(cluster, workspace):
    marker = workspace / "marker"
    result = cluster.raw("run", "--user", "nobody", "--", "sh", "-c",
                         "id -un; echo private > /tmp/file && cat /tmp/file")
    assert (result.returncode, result.stdout) == (0, b"nobody\nprivate\n")
    result = cluster.raw("run", "--", "sh", "-c", f"echo x > {marker}; cat {marker}")
    assert (result.returncode, result.stdout) == (0, b"x\n")
    assert not marker.exists(), "a job wrote to the machine's own files"


def test_volume_is_shared(cluster, workspace):
    shared = workspace / "shared"
    shared.mkdir()
    assert cluster.raw("run", "--volume", f"{shared}:/mnt/shared", "--",
                       "sh", "-c", "echo out > /mnt/shared/file").returncode == 0
    assert (shared / "file").read_text() == "out\n"


def test_stdin_from_a_file(cluster, workspace):
    data = workspace / "in"
    data.write_bytes(b"line one\nline two\n")
    result = cluster.raw("run", "--stdin", str(data), "--", "sort", "-r")
    assert result.stdout == b"line two\nline one\n"
    assert cluster.raw("run", "--", "cat").stdout == b""


def test_a_daemon_that_leaves_its_parent_belongs_to_the_job(cluster):
    cluster.run("daemon", "sh", "-c", "(setsid sh -c 'sleep 1; echo from the daemon' &) ; echo started; exit 3")
    assert cluster.wait("daemon") == 3
    assert cluster.logs("daemon") == b"started\nfrom the daemon\n"


def test_death_by_signal_is_128_plus_its_number(cluster):
    assert cluster.raw("run", "--", "sh", "-c", "kill -SEGV $$").returncode == 128 + 11


def test_stop_kill_and_rm(cluster):
    cluster.run("polite", "sh", "-c", "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.1; done")
    cluster.until_output("polite", b"up\n")
    cluster.baton("stop", "polite")
    job = cluster.job("polite")
    assert (job["state"], job["exit_code"]) == ("stopped", 5)
    assert cluster.logs("polite") == b"up\nbye\n"
    cluster.run("stubborn", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done")
    cluster.until_output("stubborn", b"up\n")
    assert "stubborn" in cluster.fails("rm", "stubborn")
    cluster.baton("kill", "--signal", "KILL", "stubborn")
    assert cluster.wait("stubborn") == 137
    cluster.baton("rm", "stubborn")
    assert "stubborn" in cluster.fails("inspect", "stubborn")
    assert [job["spec"]["name"] for job in cluster.json("ps", "-a")] == ["polite"]


def test_kill_ends_what_the_command_left_behind(cluster):
    cluster.run("orphans", "sh", "-c", "(while :; do sleep 0.1; done) & echo up")
    cluster.until_output("orphans", b"up\n")
    cluster.baton("kill", "orphans")
    job = cluster.job("orphans")
    assert (job["state"], job["exit_code"]) == ("stopped", 137)
    cluster.baton("rm", "orphans")


def test_a_signal_reaches_the_command(cluster):
    cluster.run("usr1", "sh", "-c", "trap 'echo got it; exit 0' USR1; echo up; while :; do sleep 0.1; done")
    cluster.until_output("usr1", b"up\n")
    cluster.baton("kill", "--signal", "USR1", "usr1")
    assert cluster.wait("usr1") == 0
    assert cluster.logs("usr1") == b"up\ngot it\n"


@pytest.mark.parametrize("args, says", [
    (["inspect", "nobody-home"], "nobody-home"),
    (["logs", "nobody-home"], "nobody-home"),
    (["wait", "nobody-home"], "nobody-home"),
    (["migrate", "nobody-home"], "nobody-home"),
    (["drain", "node-99"], "node-99"),
    (["cordon", "node-99"], "node-99"),
    (["run", "--detach", "--node", "node-99", "--", "true"], "node-99"),
    (["run", "--detach", "--interval", "0", "--", "true"], "interval"),
    (["run", "--detach", "--interval", "-1", "--", "true"], "interval"),
    (["run", "--detach", "--interval", "soon", "--", "true"], "soon"),
    (["run", "--detach", "--name", "bad/name", "--", "true"], "bad/name"),
    (["run", "--detach", "--memory", "lots", "--", "true"], "lots"),
    (["run", "--detach", "--volume", "relative:/x", "--", "true"], "relative"),
    (["run", "--detach"], "command"),
    (["run", "--detach", "--restart", "sometimes", "--", "true"], "sometimes"),
    (["run", "--detach", "--env", "LATIN=\udcff", "--", "true"], 'env "\\xff" is not valid UTF-8'),
    (["run", "--detach", "--name", "x\udcff", "--", "true"], 'name "x\\xff" is not valid UTF-8'),
    (["logs", "x\udcff"], "not valid UTF-8"),
    (["wait", "x\udcff"], "not valid UTF-8"),
    (["logs", "nobody-home", "--offset", "-1"], '"-1" is not a number'),
    (["events", "--after", "-1"], '"-1" is not a number'),
    (["restore", "nobody-home", "--checkpoint", "0"], "numbers begin at 1"),
    (["stop", "nobody-home", "--grace", "50d"], "49d are the most"),
    (["run", "--detach", "--node", "nowhere", "--", "true"], 'there is no node "nowhere"'),
    (["--bogus"], "a command is missing"),
    (["checkpoint", "nobody-home"], "nobody-home"),
    (["restore", "nobody-home"], "nobody-home"),
])
def test_bad_input_is_named_and_changes_nothing(cluster, args, says):
    err = cluster.fails(*args)
    assert says in err
    assert cluster.json("ps", "-a") == []


def test_a_command_that_does_not_exist(cluster):
    result = cluster.raw("run", "--name", "ghost", "--", "/no/such/command")
    assert result.returncode not in (0, None)
    assert b"/no/such/command" in result.stderr and b"No such file" in result.stderr
    assert cluster.job("ghost")["state"] == "failed"
    # A path need not be UTF-8, and its error must reach the controller all the same: the agent's
    # stream of results was cut by such a one, again and again, and the node took no order any more.
    err = cluster.fails("run", "--node", "node-1", "--", "/no/such/\udcff")
    assert "/no/such/\\xff: No such file" in err
    assert cluster.baton("run", "--node", "node-1", "--", "echo", "still here") == "still here\n"
    err = cluster.fails("run", "--user", "no-such-user", "--", "true")
    assert "no-such-user" in err
    err = cluster.fails("run", "--workdir", "/no/such/dir", "--", "true")
    assert "/no/such/dir" in err


def test_a_name_is_taken_once(cluster):
    cluster.run("one", "sleep", "100")
    assert "one" in cluster.fails("run", "--detach", "--name", "one", "--", "true")
    cluster.baton("kill", "one")


def test_a_job_that_no_node_can_take_says_so(cluster):
    result = cluster.raw("run", "--detach", "--name", "big", "--cpu", "1000", "--", "true")
    assert result.returncode == 0
    assert b"big waits: no node can take it: node-1 has" in result.stderr
    assert b"Protected     not yet" in cluster.raw("inspect", "big").stdout
    cluster.baton("kill", "big")


def test_json_everywhere(cluster):
    cluster.run("sleeper", "sleep", "1000", flags=["--interval", "300ms"])
    cluster.until_checkpoint("sleeper")
    assert cluster.json("ps")[0]["spec"]["argv"] == ["sleep", "1000"]
    assert set(cluster.nodes()) == {"node-1", "node-2"}
    assert cluster.json("checkpoints", "sleeper")[0]["number"]
    assert {"job-submitted", "checkpoint"} <= {event["kind"] for event in cluster.events("sleeper")}
    assert "version" in cluster.json("version")
    cluster.baton("stop", "sleeper")


def test_memory_limit_holds(cluster):
    if not cluster.nodes()["node-1"]["facts"].get("cgroup_limits"):
        pytest.skip("no cgroup can be made here")
    result = cluster.raw("run", "--memory", "64MiB", "--", "/usr/bin/python3", "-c", "x = b'x' * (200 << 20)")
    assert result.returncode in (1, 137), "a job outgrew its limit"



def comm(pid):
    """The name of a process; nothing if it has ended meanwhile."""
    try:
        with open(f"/proc/{pid}/comm", "r") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_nothing_is_left_behind(make_cluster):
    import subprocess

    def debris():
        return (set(open("/proc/mounts").read().splitlines()),
                set(subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout.split("\n")),
                {pid for pid in __import__("os").listdir("/proc") if pid.isdigit()
             and BATON.name in comm(pid)})
    before = debris()
    cluster = make_cluster("--nodes", "2")
    cluster.run("sleeper", "sleep", "1000", flags=["--interval", "200ms"])
    cluster.until_checkpoint("sleeper")
    cluster.stop()
    until(lambda: debris() == before, "everything of the cluster is gone", timeout=5)
