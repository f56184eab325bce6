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
