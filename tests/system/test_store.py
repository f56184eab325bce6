"""The store of checkpoints as its users see it: pins, verification, collection, archives."""

import json
import secrets
import subprocess

import pytest

from conftest import BATON, LEASE_MS, WAIT, until
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


# Memory and files that hold a mark which is in no argument: it is given backwards and in digits.
MARKED = ["/usr/bin/python3", "-u", "-c",
          "import os,sys,time\nmark=bytes.fromhex(sys.argv[1])[::-1]\n"
          "memory=bytearray(b''.join(mark+os.urandom(4096-len(mark)) for _ in range(64)))\n"
          "open('/tmp/small','wb').write(mark*10)\nopen('/tmp/large','wb').write(memory)\n"
          "while True:\n  whole=memory.count(mark)==64 and open('/tmp/large','rb').read()==memory\n"
          "  whole=whole and open('/tmp/small','rb').read()==mark*10\n"
          "  print('whole' if whole else 'BROKEN')\n  time.sleep(0.05)"]


def files_with(folder, mark):
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_socket()
            and mark in path.read_bytes()]


def start_marked(cluster):
    mark = b"mark-" + secrets.token_hex(12).encode()
    cluster.run("marked", *MARKED, mark[::-1].hex(),
                flags=["--node", "node-1", "--no-checkpoint", "--policy", "standby=false"])
    cluster.until_output("marked", b"whole")
    cluster.baton("checkpoint", "marked")
    return mark


def test_a_store_without_a_key_shows_what_programs_hold(make_cluster):
    cluster = make_cluster("--nodes", "1", "--lease", f"{LEASE_MS}ms")
    found = files_with(cluster.data / "controller", start_marked(cluster))
    kinds = {path.parent.name for path in found} | {path.name for path in found}
    assert {"packs", "files", "tree-0.tar"} <= kinds, found
    assert "not encrypted" in cluster.baton("store", "stats")
    cluster.baton("kill", "marked")


def test_an_encrypted_store_shows_nothing_and_restores(make_cluster, workspace):
    key, wrong = workspace / "key", workspace / "wrong"
    for path in key, wrong:
        path.write_text(secrets.token_hex(32))
        path.chmod(0o600)
    cluster = make_cluster("--nodes", "2", "--lease", f"{LEASE_MS}ms", "--store-key-file", key)
    controller = cluster.data / "controller"
    mark = start_marked(cluster)
    assert files_with(controller, mark) == []
    assert "1 checkpoints, 0 damaged; 0 things" in cluster.baton("store", "check")
    assert "\nencrypted" in cluster.baton("store", "stats")
    assert "python" in cluster.baton("inspect", "marked@1")
    cluster.baton("checkpoint", "marked")
    assert cluster.json("diff", "marked", "1", "2")["processes"]

    cluster.power_cut("node-1")
    cluster.until_running_on("marked", "node-2")
    printed = cluster.logs("marked").count(b"whole")
    until(lambda: cluster.logs("marked").count(b"whole") > printed + 3, "marked goes on")
    assert b"BROKEN" not in cluster.logs("marked")

    cluster.baton("export", "marked", workspace / "archive")
    assert mark in (workspace / "archive").read_bytes(), "archives are in clear"
    cluster.baton("import", workspace / "archive", "--name", "copy")
    assert files_with(controller, mark) == []
    keys = controller / "keys"
    job, copy = (str(cluster.job(name)["id"]) for name in ("marked", "copy"))
    assert {path.name for path in keys.iterdir()} == {"cluster", job, copy}
    cluster.baton("kill", "marked")
    cluster.wait("marked")
    cluster.baton("rm", "marked")
    assert not (keys / job).exists()
    cluster.stop()

    for given, why in ([], "is encrypted: give its key"), (["--store-key-file", wrong], "not that of the encrypted"):
        refused = subprocess.run([BATON, "controller", "--data", controller, *given], capture_output=True,
                                 timeout=WAIT)
        assert refused.returncode == 1 and why in (refused.stdout + refused.stderr).decode()
