"""The store of checkpoints as its users see it: pins, verification, collection, archives."""

import json

import pytest

from conftest import LEASE_MS, until
from test_faults import checkpoint_folder
from test_moves import ENDLESS, LOOP, finish


def numbers(cluster, name="loop"):
    return [int(c["number"]) for c in cluster.json("checkpoints", name)]


def flip(path, offset=-1):
    """Changes one byte; in the middle unless said otherwise."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2 if offset < 0 else offset)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


@pytest.fixture
def loop(cluster):
    """A loop that is checkpointed only when asked."""
    cluster.run("loop", *LOOP, ENDLESS, 0.05, flags=["--node", "node-1", "--no-checkpoint"])
    cluster.until_running("loop")
    cluster.baton("checkpoint", "loop")
    return cluster


def test_a_pinned_checkpoint_outlives_retention_and_can_be_restored(loop):
    cluster = loop
    first = numbers(cluster)[0]
    assert cluster.baton("pin", "loop", str(first), "--name", "start") == f"loop@{first}: pinned (start)\n"
    for _ in range(4):
        cluster.baton("checkpoint", "loop")
    assert numbers(cluster) == [first, first + 2, first + 3, first + 4]
    assert "start" in cluster.baton("checkpoints", "loop")
    assert "no checkpoint 99" in cluster.fails("pin", "loop", "99")
    cluster.baton("restore", "loop", "--checkpoint", str(first))
    for _ in range(3):
        cluster.baton("checkpoint", "loop")
    assert first in numbers(cluster)
    assert cluster.baton("unpin", "loop", str(first)) == f"loop@{first}: not pinned\n"
    assert first not in numbers(cluster)
    finish(cluster)
    cluster.baton("rm", "loop")


def test_verify_names_what_is_damaged(loop):
    cluster = loop
    cluster.baton("checkpoint", "loop")
    first, second = numbers(cluster)
    assert f"loop@{first}: good" in cluster.baton("verify", "loop")
    assert all(int(c["verified_wall_ms"]) > 0 for c in cluster.json("checkpoints", "loop"))
    folder = checkpoint_folder(cluster, cluster.job("loop"), second)
    flip(folder / "checkpoint.json")
    own_pack = min((folder / "packs").iterdir(), key=lambda pack: pack.stat().st_nlink)
    own_pack.unlink()
    result = cluster.raw("verify", "--all", "--json")
    assert result.returncode == 1
    found = {int(v["number"]): v["damage"] for v in map(json.loads, result.stdout.splitlines())}
    assert found[first] == []
    assert sorted(found[second]) == ["checkpoint.json: its checksum is wrong", f"packs/{own_pack.name}: missing"]
    assert cluster.raw("verify", "loop", str(first)).returncode == 0
    listed = cluster.baton("checkpoints", "loop")
    assert "DAMAGED: checkpoint.json" in listed
    assert "name a job" in cluster.fails("verify")
    # The one before is used, without the damaged one being tried.
    cluster.power_cut("node-1")
    cluster.until_running_on("loop", "node-2")
    assert int(cluster.job("loop")["moves"][-1]["checkpoint"]) == first
    finish(cluster)


def test_the_store_is_checked_collected_and_counted(loop):
    cluster = loop
    cluster.baton("checkpoint", "loop")
    assert "2 checkpoints, 0 damaged; 0 things that belong to none" in cluster.baton("store", "check")
    stats = cluster.json("store", "stats")
    assert int(stats["checkpoints"]) == 2 and int(stats["jobs"]) == 1
    pages = next(kind for kind in stats["kinds"] if kind["kind"] == "memory pages")
    assert 0 < int(pages["stored_bytes"]) < int(pages["logical_bytes"]), "nothing is shared"
    assert int(stats["page_stored_bytes"]) < int(stats["page_bytes"]), "nothing is compressed"
    assert "memory pages" in cluster.baton("store", "stats")

    store = checkpoint_folder(cluster, cluster.job("loop"), 1).parents[2]
    (store / "checkpoints" / "77" / "5").mkdir(parents=True)
    (store / "checkpoints" / "77" / "5" / "left").write_bytes(b"x" * 1000)
    (store / "shared" / ("a" * 32)).write_bytes(b"y" * 500)
    (store / "shared" / "notes").write_text("a person's")
    result = cluster.raw("store", "check")
    assert result.returncode == 1 and b"checkpoints/77/5: a checkpoint that is not recorded" in result.stdout
    collected = cluster.json("store", "gc")
    assert int(collected["freed_bytes"]) == 1500 and len(collected["orphans"]) == 2
    assert "1 things" in cluster.raw("store", "check").stdout.decode(), "what is not Baton's stays"
    assert (store / "shared" / "notes").exists()
    assert "freed 0 B" in cluster.baton("store", "gc")
    finish(cluster)


def test_a_job_is_carried_to_another_cluster(make_cluster, workspace):
    here = make_cluster("--nodes", "1", "--lease", f"{LEASE_MS}ms", name="here")
    here.run("loop", *LOOP, ENDLESS, 0.05, flags=["--interval", "300ms", "--env", "GREETING=hello"])
    here.until_checkpoint("loop", after=1)
    here.baton("checkpoint", "loop")
    archive = workspace / "loop.baton"
    here.baton("export", "loop", archive)
    assert archive.stat().st_mode & 0o777 == 0o600
    piped = here.raw("export", f"loop@{numbers(here)[-1]}", "-").stdout
    assert piped.startswith(b"BATNARCH") and piped.endswith(b"BATNDONE")
    assert "no checkpoint 999" in here.fails("export", "loop@999", workspace / "none")
    assert not list(workspace.glob("none*"))
    finish(here)
    here.stop()

    there = make_cluster("--nodes", "2", "--lease", f"{LEASE_MS}ms", name="there")
    bad = workspace / "bad.baton"
    bad.write_bytes(archive.read_bytes())
    flip(bad)
    assert "checksum" in there.fails("import", bad)
    bad.write_bytes(archive.read_bytes()[:-9])
    assert "cut short" in there.fails("import", bad)
    assert there.json("ps", "-a") == []
    assert there.baton("import", archive, "--name", "copy") == "copy\n"
    job = there.job("copy")
    assert job["state"] == "stopped" and job["spec"]["env"]["GREETING"] == "hello"
    printed = there.logs("copy")
    assert printed.startswith(b"0\n1\n")
    there.baton("restore", "copy", "--to", "node-2")
    assert there.until_running("copy")["node"] == "node-2"
    assert there.logs("copy").startswith(printed)
    there.until_checkpoint("copy", after=1)
    there.baton("migrate", "copy", "--to", "node-1")
    finish(there, "copy")
    with open(archive, "rb") as file:
        assert there.raw("import", "-", "--restore", stdin=file).returncode == 0
    there.until_running("loop")
    finish(there)


def test_what_changed_and_what_is_in_a_checkpoint(cluster):
    script = ("import mmap,signal,sys\nmemory=mmap.mmap(-1,64*4096,flags=mmap.MAP_PRIVATE)\n"
              "def change(*_):\n  memory[8*4096:24*4096]=b'x'*(16*4096)\n"
              "  open('/tmp/made','w').write('new')\n  print('changed')\n"
              "signal.signal(signal.SIGUSR1,change)\n"
              "listener=__import__('socket').create_server(('127.0.0.1',4711))\n"
              "print('ready')\nwhile True: signal.pause()\n")
    cluster.run("pages", "/usr/bin/python3", "-u", "-c", script,
                flags=["--no-checkpoint", "--env", "PASSWORD=hidden"])
    cluster.until_output("pages", b"ready")
    cluster.baton("checkpoint", "pages")
    cluster.baton("kill", "--signal", "USR1", "pages")
    cluster.until_output("pages", b"changed")
    cluster.baton("checkpoint", "pages")
    diff = cluster.json("diff", "pages", "1", "2")
    moved = sum(int(p["changed"]) + int(p["appeared"]) for p in diff["processes"])
    assert 16 <= moved < 400, diff["processes"]
    assert all(int(p["vanished"]) < 50 for p in diff["processes"])
    assert [f["change"] for f in diff["files"] if f["path"].endswith("tmp/made")] == ["appeared"]
    same = cluster.json("diff", "pages", "2", "2")
    assert same["files"] == [] and all(not int(p["changed"]) for p in same["processes"])
    assert "Memory, in pages" in cluster.baton("diff", "pages", "1", "2")

    shown = cluster.baton("inspect", "pages@2")
    assert "env PASSWORD=...\n" in shown and "hidden" not in shown
    assert "tcp 127.0.0.1:4711 listening" in shown and "[stack]" in shown
    assert "PASSWORD=hidden" in cluster.baton("inspect", "pages@2", "--show-env")
    image = cluster.json("inspect", "pages@2")
    python = next(p for p in image["processes"] if p["command"].startswith("python"))
    assert {d["fd"] for d in python["descriptors"]} >= {0, 1, 2, 3}
    assert int(python["memory_bytes"]) > 1 << 20
    assert "JOB@NUMBER" in cluster.fails("inspect", "pages@x")
    cluster.baton("kill", "pages")
