// What the store costs: packs of real memory against restic and borg on the same files.
//
//   bench_store [--json FILE] [--tmpfs DIR] [--rounds N] [--disk DIR] [--only work|shipping]
//     [--mib-each N]
//
// The work: one core (this process and the peers are pinned to one), everything in memory (tmpfs),
// so that it is the work that is measured and not a disk. Medians of N rounds. Needs restic, borg,
// python3-numpy and redis.
//
// Shipping: a real `baton controller`, to which 8 agents ship a checkpoint of 1 GiB each at once.
// Everybody is simulated but what ships; see store/shipping.h for what is measured. On all cores,
// and 16 GiB in DIR, or less of less than 1,024 MiB each.
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "agent/engine/page_packs.h"
#include "agent/engine/page_store.h"
#include "base/clock.h"
#include "base/log.h"
#include "report.h"
#include "scratch.h"
#include "store/checkpoint_store.h"
#include "store/data.h"
#include "store/pack.h"
#include "store/reader.h"
#include "store/shipping.h"
#include "store/upload.h"
#include "sys/file.h"

namespace {

using namespace baton;
using namespace baton::bench;
namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::size_t set_bytes_max = 256u << 20;
constexpr std::size_t page_bytes = store::kPageBytes;
constexpr int list_checkpoints = 10'000;
constexpr int shippers = 8;
constexpr double controller_bar_mib = 256;

struct Options {
  std::string json_file;
  fs::path tmpfs = "/dev/shm";
  fs::path disk = "/var/tmp";
  std::string only;
  int rounds = 5;
  int mib_each = 1024;
};

struct Samples {
  std::vector<double> values;
  double median() const { return percentile(values, 0.5); }
};

double seconds(const std::function<void()>& work) {
  const auto before = boot_time_ns();
  work();
  return static_cast<double>(boot_time_ns() - before) / 1e9;
}

[[noreturn]] void give_up(const Error& error) {
  fmt::print(stderr, "bench_store: {}\n", error.message());
  std::exit(1);
}
template <typename T>
T must(Result<T> result) {
  if (!result) give_up(result.error());
  return std::move(*result);
}
void must(Status status) {
  if (!status) give_up(status.error());
}

// This thread, and what it starts meanwhile.
class OnOneCore {
 public:
  OnOneCore() {
    ::sched_getaffinity(0, sizeof before_, &before_);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    ::sched_setaffinity(0, sizeof one, &one);
  }
  ~OnOneCore() { ::sched_setaffinity(0, sizeof before_, &before_); }
  OnOneCore(const OnOneCore&) = delete;

 private:
  cpu_set_t before_{};
};

class Bench {
 public:
  explicit Bench(Options options) : options_(std::move(options)) {
    std::string pattern = options_.tmpfs / "baton-bench-store-XXXXXX";
    if (!::mkdtemp(pattern.data())) give_up(Error::from_errno(pattern));
    directory_ = pattern;
  }
  ~Bench() { (void)sys::remove_tree(directory_); }

  void run() {
    sets_ = must(make_data(directory_, set_bytes_max));
    fs::create_directory(directory_ / "files");
    for (const auto& set : sets_) {
      std::ofstream(directory_ / "files" / (set.name + ".pages"), std::ios::binary) << set.pages;
      total_bytes_ += set.pages.size();
    }
    if (options_.only != "shipping") work();
    if (options_.only != "work") ship();
  }

  json report() const {
    json bytes;
    for (const auto& set : sets_) bytes[set.name] = set.pages.size();
    return {{"environment", surroundings_},
            {"bytes", bytes},
            {"samples", samples_},
            {"reach", reach_.cells()}};
  }

 private:
  void work() {
    const OnOneCore pinned;
    seal_and_read();
    recognise();
    incremental();
    list_many();
  }

  void ship() {
    const auto scratch = must(ScratchDirectory::make(options_.disk));
    const auto figures =
        must(ship_at_once(scratch.path(), sets_, shippers, std::uint64_t(options_.mib_each) << 20));
    fmt::print("{:.1f} GiB came in {:.1f} s; the controller: {:.0f} MiB before, {} threads\n",
               static_cast<double>(figures.bytes) / static_cast<double>(1u << 30), figures.seconds,
               figures.before_mib, figures.threads);
    samples_["shipping"] = {{"bytes", figures.bytes},
                            {"seconds", figures.seconds},
                            {"controller_before_mib", figures.before_mib},
                            {"controller_peak_mib", figures.peak_mib},
                            {"controller_peak_anonymous_mib", figures.peak_anonymous_mib},
                            {"controller_threads", figures.threads}};
    cell(fmt::format("{} agents ship {} MiB each", shippers, options_.mib_each),
         "controller's memory, peak (VmHWM)", figures.peak_mib, "MiB",
         fmt::format("<= {}", controller_bar_mib), figures.peak_mib <= controller_bar_mib);
  }

  void cell(const std::string& name, const std::string& figure, double value,
            const std::string& unit, const std::string& bar, bool holds) {
    reach_.add(name, figure, value, unit, bar, holds);
    fmt::print("{}: {}: {:.2f} {} (bar {}): {}\n", name, figure, value, unit, bar,
               holds ? "holds" : "MISSED");
    std::fflush(stdout);
  }

  fs::path fresh(const std::string& name) {
    const fs::path folder = directory_ / name;
    must(sys::remove_tree(folder));
    fs::create_directory(folder);
    return folder;
  }

  double rate_mb(double taken_s, std::size_t bytes) {
    return static_cast<double>(bytes) / 1e6 / taken_s;
  }

  // Hash, recognise zeroes, compress, write, seal.
  void pack(const std::string& pages, agent::PagePacks& packs) {
    for (std::size_t at = 0; at < pages.size(); at += page_bytes) {
      const auto hash = store::hash_page(pages.data() + at);
      if (hash == store::zero_page_hash()) continue;
      must(packs.add(pages.data() + at, hash));
    }
    must(packs.seal());
  }

  double peer(const std::string& command) {
    return seconds([&] {
      if (std::system((command + " >/dev/null 2>&1").c_str()) != 0)
        give_up(Error(ErrorCode::Unavailable, command + " failed"));
    });
  }

  void seal_and_read() {
    std::map<std::string, Samples> seal, peers;
    Samples mixed, read;
    for (int round = 0; round < options_.rounds; ++round) {
      const fs::path folder = fresh("packs");
      auto packs = must(agent::PagePacks::create(folder));
      double all_s = 0;
      for (const auto& set : sets_) {
        const double taken = seconds([&] { pack(set.pages, *packs); });
        seal[set.name].values.push_back(rate_mb(taken, set.pages.size()));
        all_s += taken;
      }
      mixed.values.push_back(rate_mb(all_s, total_bytes_));
      std::size_t pages_read = 0;
      std::vector<char> buffer(store::kExtentPages * page_bytes);
      const double taken = seconds([&] {
        for (const auto& [number, pack] : packs->packs()) {
          auto reader = must(store::PackReader::open(packs->path(pack)));
          for (std::uint32_t first = 0; first < pack.pages; first += store::kExtentPages) {
            const auto count = std::min(store::kExtentPages, pack.pages - first);
            must(reader->read(first, count, buffer.data()));
            pages_read += count;
          }
        }
      });
      read.values.push_back(rate_mb(taken, pages_read * page_bytes));

      const std::string files = directory_ / "files";
      const std::string repository = fresh("restic");
      const std::string restic =
          "RESTIC_PASSWORD=x GOMAXPROCS=1 restic --no-cache -q -r " + repository + "/r ";
      peer(restic + "init");
      peers["restic"].values.push_back(rate_mb(peer(restic + "backup " + files), total_bytes_));
      const std::string vault = fresh("borg");
      const std::string borg = "BORG_BASE_DIR=" + vault + " borg ";
      peer(borg + "init -e none " + vault + "/r");
      peers["borg"].values.push_back(
          rate_mb(peer(borg + "create " + vault + "/r::one " + files), total_bytes_));
    }
    for (const auto& [name, samples] : seal) samples_["seal " + name] = samples.values;
    for (const auto& [name, samples] : peers) {
      samples_[name] = samples.values;
      const double times = mixed.median() / samples.median();
      cell("seal, mixed set, one core", "our rate / " + name + "'s first backup", times, "times",
           ">= 3", times >= 3);
    }
    samples_["seal mixed"] = mixed.values;
    samples_["read"] = read.values;
    cell("seal, mixed set, one core", "rate", mixed.median(), "MB/s", ">= 600",
         mixed.median() >= 600);
    cell("read back for restore, verified", "rate", read.median() / 1e3, "GB/s", ">= 1.5",
         read.median() >= 1500);
  }

  // A page that was scanned and holds what it held: hashed, compared, and no more.
  void recognise() {
    Samples unchanged, zero;
    const std::string& pages = sets_[0].pages;
    const std::string zeroes(64u << 20, '\0');
    auto packs = must(agent::PagePacks::create(fresh("unchanged")));
    agent::PageStore store(*packs);
    constexpr std::uint64_t base = 0x7f0000000000, other = 0x6f0000000000;
    must(store.put(base, pages));
    must(store.put(other, zeroes));
    for (int round = 0; round < options_.rounds; ++round) {
      unchanged.values.push_back(
          rate_mb(seconds([&] { must(store.put(base, pages)); }), pages.size()));
      zero.values.push_back(
          rate_mb(seconds([&] { must(store.put(other, zeroes)); }), zeroes.size()));
    }
    samples_["unchanged"] = unchanged.values;
    samples_["zero"] = zero.values;
    cell("unchanged pages recognised", "rate", unchanged.median() / 1e3, "GB/s", ">= 5",
         unchanged.median() >= 5000);
    cell("zero pages recognised", "rate", zero.median() / 1e3, "GB/s", ">= 5",
         zero.median() >= 5000);
  }

  // 1 % of the pages of redis get a page of NumPy's; the rest stays.
  void incremental() {
    auto packs = must(agent::PagePacks::create(fresh("incremental")));
    agent::PageStore store(*packs);
    constexpr std::uint64_t base = 0x7f0000000000;
    const std::string &pages = sets_[1].pages, &news = sets_[0].pages;
    must(store.put(base, pages));
    must(packs->seal());
    packs->take_added();
    std::mt19937_64 random(3);
    const std::size_t count = pages.size() / page_bytes, dirty = count / 100;
    std::set<std::size_t> chosen;
    while (chosen.size() < dirty) chosen.insert(random() % count);
    std::string written;
    for (std::size_t page : chosen) {
      const std::size_t from = random() % (news.size() / page_bytes) * page_bytes;
      must(store.put(base + page * page_bytes, std::string_view(news).substr(from, page_bytes)));
      written.append(news, from, page_bytes);
    }
    must(packs->seal());
    const double stored = static_cast<double>(packs->take_added().bytes) +
                          static_cast<double>(store::encode_page_map(store.map()).size());
    // The dirty pages alone, as packs compress them.
    auto alone = must(agent::PagePacks::create(fresh("alone")));
    pack(written, *alone);
    std::uint64_t compressed = 0;
    for (const auto& [number, one] : alone->packs()) compressed += fs::file_size(alone->path(one));
    const double limit = 1.05 * static_cast<double>(compressed) + 65536;
    samples_["incremental stored, compressed dirty"] = {stored, static_cast<double>(compressed)};
    cell("an incremental checkpoint", "stored / (1.05 x compressed dirty bytes + 64 KiB)",
         stored / limit, "times", "<= 1", stored <= limit);
  }

  void list_many() {
    const fs::path root = fresh("many");
    auto store = must(store::CheckpointStore::open(root));
    for (int number = 1; number <= list_checkpoints; ++number) {
      auto upload = must(store->begin_upload(JobId(1)));
      must(upload->begin_file("checkpoint.json", 2, 0600));
      must(upload->write("{}"));
      must(upload->end_file(store::hash_bytes("{}")));
      must(upload->publish(CheckpointNumber(static_cast<std::uint64_t>(number)), "{}"));
    }
    Samples listed, opened;
    for (int round = 0; round < options_.rounds; ++round) {
      listed.values.push_back(1e3 * seconds([&] {
                                if (must(store->list()).size() != list_checkpoints)
                                  give_up(Error(ErrorCode::Internal, "checkpoints are missing"));
                              }));
      opened.values.push_back(
          1e3 *
          seconds([&] { must(store->open_reader(JobId(1), CheckpointNumber(list_checkpoints))); }));
    }
    samples_["list"] = listed.values;
    samples_["open newest"] = opened.values;
    cell("10,000 checkpoints of one job", "list", listed.median(), "ms", "<= 50",
         listed.median() <= 50);
    cell("10,000 checkpoints of one job", "open the newest", opened.median(), "ms", "<= 50",
         opened.median() <= 50);
  }

  const Options options_;
  const json surroundings_ = environment();
  fs::path directory_;
  std::vector<DataSet> sets_;
  std::size_t total_bytes_ = 0;
  json samples_ = json::object();
  Reach reach_;
};

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--json")
      options.json_file = argv[i + 1];
    else if (name == "--tmpfs")
      options.tmpfs = argv[i + 1];
    else if (name == "--rounds")
      options.rounds = std::atoi(argv[i + 1]);
    else if (name == "--disk")
      options.disk = argv[i + 1];
    else if (name == "--mib-each")
      options.mib_each = std::atoi(argv[i + 1]);
    else if (name == "--only")
      options.only = argv[i + 1];
  }
  log_init("bench", "warn");
  json report;
  {
    Bench bench(options);
    bench.run();
    report = bench.report();
  }
  if (!options.json_file.empty()) std::ofstream(options.json_file) << report.dump(2) << "\n";
  return 0;
}
