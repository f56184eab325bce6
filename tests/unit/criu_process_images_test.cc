// What CRIU's images say of processes, from images made here.
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <fstream>

#include "criu/criu_images.pb.h"
#include "criu/image_file.h"
#include "criu/images.h"
#include "criu/process_images.h"
#include "fakes/temp_dir.h"

namespace baton::criu {
namespace {

using criu_images::FileEntry;

class ProcessImagesTest : public testing::Test {
 protected:
  template <typename Entry>
  void write(const std::string& name, std::uint32_t magic, const std::vector<Entry>& entries) {
    std::ofstream file(directory_.path() / name, std::ios::binary);
    auto word = [&](std::uint32_t value) {
      file.write(reinterpret_cast<const char*>(&value), sizeof value);
    };
    word(kCommonMagic);
    word(magic);
    for (const Entry& entry : entries) {
      const std::string bytes = entry.SerializeAsString();
      word(static_cast<std::uint32_t>(bytes.size()));
      file << bytes;
    }
  }
  static FileEntry file(std::uint32_t type, std::uint32_t id) {
    FileEntry entry;
    entry.set_type(type);
    entry.set_id(id);
    return entry;
  }
  void SetUp() override {
    criu_images::PstreeEntry tree;
    tree.set_pid(2);
    tree.set_ppid(1);
    tree.set_pgid(2);
    tree.set_sid(2);
    tree.add_threads(2);
    tree.add_threads(5);
    criu_images::PstreeEntry zombie = tree;
    zombie.set_pid(3);
    write("pstree.img", kPstreeMagic, std::vector{tree, zombie});
    criu_images::CoreEntry core;
    core.mutable_tc()->set_comm("server");
    write("core-2.img", kCoreMagic, std::vector{core});
    write("core-3.img", kCoreMagic, std::vector{core});

    FileEntry regular = file(1, 10);
    regular.mutable_reg()->set_id(10);
    regular.mutable_reg()->set_flags(0);
    regular.mutable_reg()->set_name("usr/bin/server");
    FileEntry socket = file(4, 11);
    socket.mutable_isk()->set_family(AF_INET);
    socket.mutable_isk()->set_type(SOCK_STREAM);
    socket.mutable_isk()->set_proto(6);
    socket.mutable_isk()->set_state(10);
    socket.mutable_isk()->set_src_port(80);
    socket.mutable_isk()->add_src_addr(0x0100007f);
    FileEntry local = file(5, 12);
    local.mutable_usk()->set_ino(7);
    local.mutable_usk()->set_name(std::string("\0name", 5));
    write("files.img", kFilesMagic, std::vector{regular, socket, local, file(6, 13)});

    criu_images::TaskIds ids;
    ids.set_vm_id(1);
    ids.set_files_id(1);
    write("ids-2.img", kIdsMagic, std::vector{ids});
    std::vector<criu_images::FdinfoEntry> table(4);
    for (std::uint32_t fd = 0; fd < 4; ++fd) {
      table[fd].set_fd(fd);
      table[fd].set_id(10 + fd);
    }
    write("fdinfo-1.img", kFdinfoMagic, table);

    criu_images::MmEntry space;
    space.set_exe_file_id(10);
    space.set_mm_start_brk(0x2000);
    space.set_mm_brk(0x2800);
    space.set_mm_start_stack(0x8fff);
    space.set_mm_env_start(0x7000);
    space.set_mm_env_end(0x7100);
    auto add = [&](std::uint64_t start, std::uint32_t status, std::uint32_t prot,
                   std::uint64_t id) {
      auto& vma = *space.add_vmas();
      vma.set_start(start);
      vma.set_end(start + 0x1000);
      vma.set_shmid(id);
      vma.set_prot(prot);
      vma.set_flags(MAP_PRIVATE);
      vma.set_status(status);
    };
    add(0x1000, 1 | 1 << 6, PROT_READ | PROT_EXEC, 10);
    add(0x2000, 1 | 1 << 9, PROT_READ | PROT_WRITE, 0);
    add(0x8000, 1 | 1 << 9, PROT_READ | PROT_WRITE, 0);
    add(0x9000, 1 | 1 << 9, PROT_READ | PROT_WRITE, 0);
    write("mm-2.img", kMmMagic, std::vector{space});
  }
  fakes::TempDir directory_;
};

TEST_F(ProcessImagesTest, TellsProcessesDescriptorsAndMappings) {
  auto processes = read_processes(sys::sources_in(directory_.path()));
  ASSERT_TRUE(processes) << processes.error().message();
  ASSERT_EQ(processes->size(), 2u);
  const ProcessImage& server = (*processes)[0];
  EXPECT_EQ(server.command, "server");
  EXPECT_THAT(server.threads, testing::ElementsAre(2, 5));
  EXPECT_EQ(server.environment_end - server.environment_start, 0x100u);
  ASSERT_EQ(server.descriptors.size(), 4u);
  EXPECT_EQ(server.descriptors[0].what, "/usr/bin/server");
  EXPECT_EQ(server.descriptors[1].what, "tcp 127.0.0.1:80 listening");
  EXPECT_EQ(server.descriptors[2].what, "socket 7 @name");
  EXPECT_EQ(server.descriptors[3].kind, "eventfd");
  ASSERT_EQ(server.mappings.size(), 4u);
  EXPECT_EQ(server.mappings[0].access, "r-xp");
  EXPECT_EQ(server.mappings[0].what, "/usr/bin/server");
  EXPECT_EQ(server.mappings[1].what, "[heap]");
  EXPECT_EQ(server.mappings[2].what, "[stack]");
  EXPECT_EQ(server.mappings[3].what, "");
  EXPECT_TRUE((*processes)[1].mappings.empty()) << "a zombie";
}

TEST_F(ProcessImagesTest, AProcessThatComesTwiceIsRefused) {
  criu_images::PstreeEntry tree;
  tree.set_pid(2);
  tree.set_ppid(1);
  tree.set_pgid(2);
  tree.set_sid(2);
  write("pstree.img", kPstreeMagic, std::vector{tree, tree});
  EXPECT_THAT(read_processes(sys::sources_in(directory_.path())).error().message(), testing::HasSubstr("twice"));
  EXPECT_THAT(summarize_images(directory_.path()).error().message(), testing::HasSubstr("twice"));
}

TEST_F(ProcessImagesTest, ALongNameIsCut) {
  FileEntry regular = file(1, 10);
  regular.mutable_reg()->set_id(10);
  regular.mutable_reg()->set_flags(0);
  regular.mutable_reg()->set_name(std::string(1 << 20, 'n'));
  write("files.img", kFilesMagic, std::vector{regular});
  auto processes = read_processes(sys::sources_in(directory_.path()));
  ASSERT_TRUE(processes) << processes.error().message();
  EXPECT_LT(processes->at(0).mappings[0].what.size(), 1'000u);
}

TEST_F(ProcessImagesTest, AnImageThatIsNotWholeIsNamed) {
  for (const char* name : {"pstree.img", "files.img", "core-2.img", "mm-2.img", "fdinfo-1.img"}) {
    const auto path = directory_.path() / name;
    const auto size = std::filesystem::file_size(path);
    std::filesystem::resize_file(path, size - 1);
    auto processes = read_processes(sys::sources_in(directory_.path()));
    ASSERT_FALSE(processes) << name;
    EXPECT_EQ(processes.error().code(), ErrorCode::Damaged);
    EXPECT_THAT(processes.error().message(), testing::HasSubstr(name));
    SetUp();
  }
}

}  // namespace
}  // namespace baton::criu
