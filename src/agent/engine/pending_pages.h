// Which pages of an address space are still to come, where they belong now, and which page of the
// checkpoint each of them is. Internal to the engine.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace baton::agent {

// Addresses are multiples of the page size; ranges are half-open. Thread-compatible.
class PendingPages {
 public:
  struct Piece {
    std::uint64_t start = 0;
    std::uint64_t end = 0;
    std::uint64_t image = 0;  // where `start` was at the checkpoint

    friend bool operator==(const Piece&, const Piece&) = default;
  };

  void add(std::uint64_t start, std::uint64_t end);
  // The page at this address comes from that one of the checkpoint. Absent: it is not awaited.
  std::optional<std::uint64_t> image_of(std::uint64_t address) const;
  // Whether any page of [start, end) of the checkpoint is.
  bool awaits(std::uint64_t start, std::uint64_t end) const {
    return !from_image(start, end).empty();
  }
  // The pieces that come from [start, end) of the checkpoint.
  std::vector<Piece> from_image(std::uint64_t start, std::uint64_t end) const;
  // They came, or nobody wants them any more.
  void drop(std::uint64_t start, std::uint64_t end);
  // mremap(): what was awaited at the target is forgotten.
  void move(std::uint64_t start, std::uint64_t end, std::uint64_t to);
  void clear();

  bool empty() const { return pieces_.empty(); }
  std::uint64_t bytes() const;
  std::vector<Piece> all() const;

 private:
  // The parts of pieces within a range.
  std::vector<Piece> within(std::uint64_t start, std::uint64_t end) const;
  void put(const Piece& piece);
  std::map<std::uint64_t, Piece>::iterator take(std::map<std::uint64_t, Piece>::iterator at);

  std::map<std::uint64_t, Piece> pieces_;  // by start; disjoint
  // Once one lies elsewhere than at the checkpoint: their starts, by image, which are as disjoint.
  bool moved_ = false;
  std::map<std::uint64_t, std::uint64_t> by_image_;
};

}  // namespace baton::agent
