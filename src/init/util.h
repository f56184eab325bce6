// The few helpers that baton-init's modes share. No allocation, no exceptions.
#pragma once

#include <cstddef>

namespace baton::init {

// Walks over NUL-terminated strings in memory.
class Records {
 public:
  Records(const char* data, std::size_t size) : next_(data), end_(data + size) {}
  // nullptr at the end, or when what is left has no terminator.
  const char* next();

 private:
  const char* next_;
  const char* end_;
};

// The content of a file, mapped; nullptr with errno on failure. An empty file is an error.
const char* map_file(int fd, std::size_t* size);

// mkdir -p. False with errno on failure; what exists already is fine.
bool make_directories(const char* path, unsigned mode);

// Clears signal mask and dispositions, as a program expects them from its parent.
void reset_signals();
void block_all_signals();

// Puts `source` at number `target`, without close-on-exec.
bool move_fd(int source, int target);

// One line on stderr (the incarnation's init.log).
void log_line(const char* format, ...) __attribute__((format(printf, 1, 2)));

// strtoll for trusted decimal text.
long long number(const char* text);

}  // namespace baton::init
