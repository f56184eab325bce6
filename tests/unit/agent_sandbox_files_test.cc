// The private filesystem: what is the job's own, what it shares, and what lies underneath.
#include <sys/mount.h>

#include "agent/sandbox_layout.h"
#include "agent_sandbox_fixture.h"

namespace baton::agent {
namespace {

namespace fs = std::filesystem;

std::map<std::string, fs::path> trees_of(const Sandbox& sandbox) {
  std::map<std::string, fs::path> trees;
  for (const auto& [name, path] : sandbox.private_trees()) trees[name] = path;
  return trees;
}

TEST_F(SandboxTest, FilesArePrivateAndInTheUpperLayer) {
  const std::string mark = "/usr/" + folder_.filename().string();
  Sandbox* sandbox = run(shell("echo private >" + mark +
                               "; rm /etc/hostname /etc/passwd;"
                               "echo ok; sleep 100"));
  ASSERT_NE(sandbox, nullptr);
  await_output(*sandbox, "ok");
  EXPECT_FALSE(fs::exists(mark));
  EXPECT_TRUE(fs::exists("/etc/passwd"));
  const auto trees = trees_of(*sandbox);
  EXPECT_EQ(sys::read_file(trees.at("upper") / fs::path(mark).relative_path()), "private\n");
}

TEST_F(SandboxTest, SharedMemoryAndRunAreItsOwnAndReachable) {
  const std::string name = folder_.filename().string();
  Sandbox* sandbox =
      run(shell("echo a >/dev/shm/" + name + "; echo b >/run/" + name + "; echo ok; sleep 100"));
  ASSERT_NE(sandbox, nullptr);
  await_output(*sandbox, "ok");
  EXPECT_FALSE(fs::exists("/dev/shm/" + name));
  EXPECT_FALSE(fs::exists("/run/" + name));
  const auto trees = trees_of(*sandbox);
  EXPECT_EQ(sys::read_file(trees.at("dev-shm") / name), "a\n");
  EXPECT_EQ(sys::read_file(trees.at("run") / name), "b\n");
}

TEST_F(SandboxTest, NamespacesAreItsOwnAndIpcIsApartFromPid1) {
  CommandSpec command = shell(
      "hostname; echo $$; for n in ipc mnt pid uts; do readlink /proc/1/ns/$n "
      "/proc/self/ns/$n; done");
  command.capabilities = sys::kAgentCapabilities;  // to look at pid 1
  const std::string text = printed_by(command);
  std::istringstream lines(text);
  std::string hostname, pid;
  lines >> hostname >> pid;
  EXPECT_EQ(hostname, "sandbox-test");
  EXPECT_EQ(pid, "3");
  for (const std::string name : {"ipc", "mnt", "pid", "uts"}) {
    std::string pid1, own;
    lines >> pid1 >> own;
    const std::string here = fs::read_symlink("/proc/self/ns/" + name);
    EXPECT_NE(own, here) << name;
    EXPECT_EQ(pid1 == own, name != "ipc") << name << ": CRIU must be in all but the ipc namespace";
  }
}

TEST_F(SandboxTest, DevicesAndTerminals) {
  EXPECT_EQ(printed_by(shell("echo x >/dev/null && head -c 3 /dev/zero | wc -c; ls /dev/fd/0; "
                             "[ -c /dev/pts/ptmx ] && [ -c /dev/urandom ] && echo yes;"
                             "exec 3<>/dev/ptmx && ls /dev/pts | tr '\\n' ' '")),
            "3\n/dev/fd/0\nyes\n0 ptmx ");
}

TEST_F(SandboxTest, Volumes) {
  const fs::path shared = folder_ / "shared, with:odd name";
  ASSERT_TRUE(sys::make_directories(shared));
  ASSERT_TRUE(sys::write_file_durable(shared / "in", "from the node\n"));
  SandboxSpec with_volumes = spec();
  with_volumes.volumes = {{shared, "/mnt/a/b", false},
                          {shared, "/mnt/ro", true},
                          {shared / "in", "/etc/one-file", true}};
  const Sandbox* sandbox = run(shell("cat /mnt/a/b/in /etc/one-file; echo hello >/mnt/a/b/out;"
                                     "touch /mnt/ro/x 2>/dev/null || echo read-only;"
                                     "echo x 2>/dev/null >>/etc/one-file || echo read-only"),
                               with_volumes);
  ASSERT_NE(sandbox, nullptr);
  await(*sandbox);
  EXPECT_EQ(output(*sandbox), "from the node\nfrom the node\nread-only\nread-only\n");
  EXPECT_EQ(sys::read_file(shared / "out"), "hello\n");
  EXPECT_FALSE(fs::exists("/mnt/a"));
}

TEST_F(SandboxTest, WhatCannotBeMadeLeavesNothing) {
  SandboxSpec bad = spec();
  bad.volumes = {{"/no/such/place", "/mnt", false}};
  auto refused = Sandbox::create(bad);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::NotFound);
  EXPECT_EQ(refused.error().message(), "volume /no/such/place: no such file or directory");
  bad.volumes = {{"/usr", "/etc/passwd", false}};
  refused = Sandbox::create(bad);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message(),
            "make the sandbox: make the mount point /etc/passwd: Not a directory");
  EXPECT_FALSE(fs::exists(bad.directory));
  bad = spec();
  bad.base = "/no/such/root";
  EXPECT_EQ(Sandbox::create(bad).error().code(), ErrorCode::InvalidArgument);
  bad = spec();
  bad.limits.cpus = 1;
  refused = Sandbox::create(bad);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::Unfit);
  EXPECT_FALSE(fs::exists(bad.directory));
  bad = spec();
  bad.populate_uppers = [](const auto&) { return fail(ErrorCode::NoSpace, "disk is full"); };
  refused = Sandbox::create(bad);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::NoSpace);
  EXPECT_FALSE(fs::exists(bad.directory));
}

TEST_F(SandboxTest, AnExistingDirectoryIsNotTouched) {
  SandboxSpec taken = spec();
  ASSERT_TRUE(sys::make_directories(taken.directory));
  ASSERT_TRUE(sys::write_file_durable(taken.directory / "precious", "x"));
  EXPECT_EQ(Sandbox::create(taken).error().code(), ErrorCode::AlreadyExists);
  EXPECT_TRUE(fs::exists(taken.directory / "precious"));
}

TEST_F(SandboxTest, TheUpperLayerIsFilledBeforeItIsMounted) {
  SandboxSpec filled = spec();
  filled.overlay_paths = std::vector<fs::path>{"/srv", "/not/on this node"};
  std::vector<std::string> names;
  filled.populate_uppers = [&](const auto& trees) -> Status {
    for (const auto& [name, folder] : trees) {
      names.push_back(name);
      BATON_CHECK(sys::write_file_durable(folder / "filled", name + "\n"));
    }
    return {};
  };
  const Sandbox* sandbox = run(shell("cat /filled /srv/filled '/not/on this node/filled'"), filled);
  ASSERT_NE(sandbox, nullptr);
  EXPECT_EQ(await(*sandbox).code, 0);
  EXPECT_EQ(output(*sandbox), "upper\nupper@srv\nupper@not%2Fon%20this%20node\n");
  EXPECT_EQ(overlay_paths(names), (std::vector<fs::path>{"/not/on this node", "/srv"}));
}

TEST_F(SandboxTest, TheAgentsOwnFilesAreHidden) {
  SandboxSpec hiding = spec();
  hiding.data_directory = folder_;
  const Sandbox* sandbox = run(shell("ls -A " + folder_.string() + " | wc -l"), hiding);
  ASSERT_NE(sandbox, nullptr);
  await(*sandbox);
  EXPECT_EQ(output(*sandbox), "0\n");
}

TEST_F(SandboxTest, AFilesystemBelowTheBaseHasAnOverlayOfItsOwn) {
  const fs::path nested = folder_ / "a disk", read_only = folder_ / "cd";
  fs::create_directories(nested);
  fs::create_directories(read_only);
  in_mount_namespace([&] {
    ASSERT_EQ(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
    ASSERT_EQ(::mount("none", nested.c_str(), "tmpfs", 0, "mode=1777"), 0);
    ASSERT_EQ(::mount("none", read_only.c_str(), "tmpfs", 0, nullptr), 0);
    ASSERT_TRUE(sys::write_file_durable(nested / "base", "base\n"));
    ASSERT_TRUE(sys::write_file_durable(read_only / "base", "cd\n"));
    ASSERT_EQ(::mount("none", read_only.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), 0);
    Sandbox* sandbox =
        run(shell("cd '" + nested.string() + "'; cat base; echo mine >mine; stat -c %a .; cat " +
                  read_only.string() + "/base; echo x 2>/dev/null >" + read_only.string() +
                  "/x || echo read-only; echo done; sleep 100"));
    ASSERT_NE(sandbox, nullptr);
    EXPECT_EQ(await_output(*sandbox, "done"), "base\n1777\ncd\nread-only\ndone\n");
    EXPECT_FALSE(fs::exists(nested / "mine"));
    const auto trees = trees_of(*sandbox);
    EXPECT_EQ(sys::read_file(trees.at(overlay_tree_name(nested)) / "mine"), "mine\n");
    EXPECT_EQ(trees.count(overlay_tree_name(read_only)), 0u);
    EXPECT_TRUE(sandbox->kill());
  });
}

TEST_F(SandboxTest, AnOverlayAsBaseIsRefused) {
  for (const char* name : {"lower", "upper", "work", "merged"})
    fs::create_directories(folder_ / name);
  in_mount_namespace([&] {
    ASSERT_EQ(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
    const std::string options =
        fmt::format("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", folder_.string());
    ASSERT_EQ(::mount("none", (folder_ / "merged").c_str(), "overlay", 0, options.c_str()), 0);
    SandboxSpec on_overlay = spec();
    on_overlay.base = folder_ / "merged";
    auto refused = Sandbox::create(on_overlay);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), ErrorCode::Unfit);
    EXPECT_NE(refused.error().message().find("is an overlay itself"), std::string::npos);
    on_overlay.base = "/";
    on_overlay.directory = folder_ / "merged/job";
    EXPECT_EQ(Sandbox::create(on_overlay).error().code(), ErrorCode::Unfit);
  });
}

TEST(SandboxLayout, TreeNamesAreFileNamesAndComeBack) {
  EXPECT_EQ(overlay_tree_name("/"), "upper");
  EXPECT_EQ(overlay_tree_name("/home"), "upper@home");
  const std::vector<fs::path> paths{"/a b/ü%2F", "/home", "/srv/x-y_z.1"};
  std::vector<std::string> names{"upper", "run", "dev-shm"};
  for (const fs::path& path : paths) names.push_back(overlay_tree_name(path));
  for (const std::string& name : names) EXPECT_EQ(name.find('/'), std::string::npos);
  EXPECT_EQ(overlay_paths(names), paths);
}

}  // namespace
}  // namespace baton::agent
