"""Who gets in: tokens, certificates, roles, and being shown the door. A controller and agents as an
administrator starts them on machines, here on loopback."""

import os
import pathlib
import signal
import socket
import ssl
import subprocess
import threading

import pytest

from conftest import BATON, until


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Hosts:
    """A controller with a port for agents and one for users, and agents by name."""

    def __init__(self, folder):
        self.folder = folder
        self.agents_at, self.users_at = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.processes = {}
        self.controller()

    def start(self, name, *arguments, through=()):
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen([*through, BATON, *map(str, arguments)],
                                                    stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self.processes[name]

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def controller(self):
        self.start("controller", "controller", "--data", self.folder / "c", "--listen", self.agents_at,
                   "--listen-api", self.users_at, "--lease", "1500ms",
                   "--cpu-for", "1h")  # these nodes are this machine, which may be busy
        until(lambda: "is ready" in self.log("controller").rsplit("stopping", 1)[-1], "the controller is ready")

    def agent(self, name, *flags, at=None, through=()):
        return self.start(name, "agent", "--name", name, "--controller", at or self.agents_at, "--data",
                          self.folder / name, "--kill-jobs-on-exit", *flags, through=through)

    def run(self, *arguments, **kwargs):
        return subprocess.run([BATON, *map(str, arguments)], stdin=kwargs.pop("stdin", subprocess.DEVNULL),
                              capture_output=True, timeout=60, **kwargs)

    def baton(self, *arguments):
        """As root on the controller's machine."""
        done = self.run("--controller", self.folder / "c" / "baton.sock", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def token(self, *arguments):
        path = self.folder / f"token-{len(list(self.folder.glob('token-*')))}"
        path.write_text(self.baton("token", "create", *arguments))
        return path

    def join(self, name, at=None):
        self.agent(name, "--join", self.token("--node", name), at=at)
        self.baton("await-nodes", name)

    def login(self, name, role):
        done = self.run("--controller", self.users_at, "--identity", self.folder / name, "login",
                        self.token("--user", name, "--role", role))
        assert done.returncode == 0, done.stderr

    def as_user(self, name, *arguments, **kwargs):
        return self.run("--controller", self.users_at, "--identity", self.folder / name, *arguments, **kwargs)

    def stop(self, name, number=signal.SIGTERM):
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(timeout=30)

    def stop_all(self):
        for name in [name for name in self.processes if name != "controller"] + ["controller"]:
            if name in self.processes:
                self.stop(name)


@pytest.fixture
def hosts(workspace, request):
    hosts = Hosts(workspace)
    yield hosts
    hosts.stop_all()
    left = [path for path in pathlib.Path("/sys/fs/cgroup").glob("**/baton-one") if path.is_dir()]
    assert not left, f"agents that end their jobs leave no control groups: {left}"
    if getattr(request.node, "failed", False):
        for path in sorted(workspace.glob("*.log")):
            print(f"---- {path.name}\n{path.read_text(errors='replace')[-4000:]}")


def test_a_node_joins_with_a_token_and_comes_back_without_one(hosts):
    token = hosts.token("--node", "one")
    hosts.agent("one", "--join", token)
    hosts.baton("await-nodes", "one")
    assert hosts.baton("run", "--name", "hello", "--", "echo", "hello") == "hello\n"
    assert hosts.stop("one") == 0
    # Whoever finds the token later gets nowhere with it.
    assert hosts.agent("two", "--join", token).wait(timeout=30) == 1
    assert "was used before" in hosts.log("two")
    hosts.processes.pop("two")
    # The node is known by now, also to a controller that was started again.
    assert hosts.stop("controller") == 0
    hosts.controller()
    hosts.agent("one")
    assert hosts.baton("run", "--name", "again", "--", "echo", "again") == "again\n"


def test_nobody_gets_in_without_a_token(hosts):
    assert hosts.agent("one").wait(timeout=30) == 1
    hosts.processes.pop("one")
    assert "baton token create --node one" in hosts.log("one")
    (hosts.folder / "rubbish").write_text("let me in\n")
    assert hosts.agent("one", "--join", hosts.folder / "rubbish").wait(timeout=30) == 1
    assert "this is no token" in hosts.log("one")
    assert "let me in" not in hosts.log("one")
    hosts.processes.pop("one")
    done = hosts.as_user("nobody", "ps")
    assert done.returncode == 1 and b"baton login" in done.stderr
    # Who speaks no TLS, or an old one, is not spoken to.
    for address in (hosts.agents_at, hosts.users_at):
        done = hosts.run("--controller", address, "--insecure", "ps")
        assert done.returncode == 1, done.stdout
        host, port = address.split(":")
        for newest, fine in ((ssl.TLSVersion.TLSv1_2, False), (ssl.TLSVersion.TLSv1_3, True)):
            context = ssl.create_default_context(cafile=hosts.folder / "c/identity/ca.pem")
            context.maximum_version = newest
            context.set_alpn_protocols(["h2"])
            with socket.create_connection((host, int(port)), timeout=30) as plain:
                try:
                    with context.wrap_socket(plain, server_hostname="controller.baton") as connection:
                        assert fine and connection.version() == "TLSv1.3"
                except (ssl.SSLError, ConnectionError):
                    assert not fine


def test_users_do_what_their_role_allows(hosts):
    hosts.join("one")
    for name, role in (("victor", "viewer"), ("ursula", "user"), ("udo", "user"), ("olga", "operator")):
        hosts.login(name, role)
    assert hosts.as_user("victor", "run", "--", "true").returncode == 125
    started = hosts.as_user("ursula", "run", "--detach", "--name", "hers", "--env", "KEY=secret", "--", "sleep", "1000")
    assert started.returncode == 0, started.stderr
    for who, shown in (("ursula", True), ("victor", False), ("udo", False), ("olga", True)):
        looked = hosts.as_user(who, "inspect", "hers", "--json")
        assert looked.returncode == 0, looked.stderr
        assert (b"secret" in looked.stdout) == shown, who
    refused = hosts.as_user("udo", "kill", "hers")
    assert refused.returncode == 1 and b"belongs to ursula" in refused.stderr
    assert b"admin" in hosts.as_user("olga", "token", "create").stderr
    assert hosts.as_user("olga", "cordon", "one").returncode == 0
    assert hosts.as_user("ursula", "cordon", "one").returncode == 1
    # From the moment on that one is shut out, nothing works any more.
    hosts.baton("user", "revoke", "ursula")
    gone = hosts.as_user("ursula", "kill", "hers")
    assert gone.returncode == 1 and b"shut out" in gone.stderr
    assert hosts.as_user("olga", "kill", "hers").returncode == 0
    listed = hosts.baton("members")
    assert "shut out" in listed and "operator" in listed


def test_a_login_is_remembered(hosts):
    env = dict(os.environ, BATON_IDENTITY=str(hosts.folder / "me"))
    done = subprocess.run([BATON, "--controller", hosts.users_at, "login", "-"], capture_output=True, env=env,
                          input=hosts.token("--user", "me").read_bytes(), timeout=60)
    assert done.returncode == 0, done.stderr
    assert (hosts.folder / "me/key.pem").stat().st_mode & 0o777 == 0o600
    assert hosts.as_user("me", "ps").returncode == 0
    assert (hosts.folder / "me/controller").read_text().strip() == hosts.users_at


class Tap:
    """A wire between agent and controller on which somebody listens."""

    def __init__(self, to):
        self.to = to.split(":")
        self.heard = bytearray()
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.server.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.server.accept()
            except OSError:
                return
            far = socket.create_connection((self.to[0], int(self.to[1])))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self.pump, args=(source, sink), daemon=True).start()

    def pump(self, source, sink):
        try:
            while data := source.recv(65536):
                self.heard += data
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.server.close()


def test_who_listens_on_the_wire_learns_nothing(hosts):
    tap = Tap(hosts.agents_at)
    try:
        token = hosts.token("--node", "one")
        hosts.agent("one", "--join", token, at=tap.address)
        hosts.baton("await-nodes", "one")
        secret = "xyzzy-plugh-in-the-environment"
        hosts.baton("run", "--detach", "--name", "job", "--env", f"KEY={secret}", "--interval", "300ms", "--",
                    "sh", "-c", 'echo "$KEY"; exec sleep 1000')
        until(lambda: secret in hosts.baton("logs", "job"), "its output is here")
        until(lambda: len(hosts.baton("checkpoints", "job").splitlines()) > 2, "checkpoints are here")
        heard = bytes(tap.heard)
        assert len(heard) > 20_000
        assert secret.encode() not in heard
        assert token.read_text().strip().rsplit(".", 1)[1].encode() not in heard
    finally:
        hosts.stop_all()
        tap.close()


def test_a_node_that_is_shut_out_gives_its_jobs_up(cluster):
    cluster.run("work", "sh", "-c", 'i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done',
                flags=["--node", "node-1", "--interval", "200ms"])
    cluster.until_checkpoint("work")
    cluster.baton("node", "revoke", "node-1")
    job = cluster.until_running_on("work", "node-2")
    assert job["moves"][-1]["cause"] == "node-lost"
    until(lambda: not cluster.job_pids("node-1", "echo $i"), "nothing runs on node-1")
    lines = cluster.logs("work").split()
    assert lines == [str(i).encode() for i in range(len(lines))]
    assert "there is no node" in cluster.fails("node", "revoke", "node-1")


def test_lost_identities_do_not_stop_the_cluster(hosts):
    """members.db is damaged: nodes stay, who had a role looks on, and that revocations are lost is said."""
    hosts.join("one")
    hosts.join("two")
    hosts.login("alice", "admin")
    hosts.baton("run", "-d", "--name", "work", "--node", "one", "--", "sleep", "100000")
    hosts.baton("node", "revoke", "two")
    hosts.stop("controller", signal.SIGKILL)
    database = hosts.folder / "c" / "members.db"
    for journal in database.parent.glob("members.db-*"):
        journal.unlink()
    database.write_bytes(b"no database" + database.read_bytes())
    hosts.controller()
    until(lambda: hosts.log("controller").count("is ready") == 2, "the controller is ready again")
    hosts.baton("await-nodes", "one")
    assert "work" in hosts.baton("ps")
    assert (hosts.folder / "c" / "members.db.damaged-1").read_bytes().startswith(b"no database")
    for told in (hosts.log("controller"), hosts.baton("events")):
        assert "REVOCATIONS are not known any more" in told
    assert hosts.as_user("alice", "ps").returncode == 0
    assert b"this takes a user" in hosts.as_user("alice", "run", "true").stderr
    # What is to be done is possible, and sticks.
    hosts.baton("node", "revoke", "two")
    hosts.login("alice", "admin")
    assert hosts.as_user("alice", "kill", "work").returncode == 0
