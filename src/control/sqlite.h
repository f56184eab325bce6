// SQLite behind Results. One Database and its Statements belong to one thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

struct sqlite3;
struct sqlite3_stmt;

namespace baton::control {

class Database {
 public:
  // Write-ahead log, every commit synced to disk.
  static Result<std::unique_ptr<Database>> open(const std::filesystem::path& path);

  // Renames a damaged one that nobody has open, with its journal: nothing is deleted. Returns the
  // name that it has now.
  static Result<std::string> move_aside(const std::filesystem::path& path);

  Status execute(const std::string& sql);
  // Reads all of it. Damaged: what is wrong with its structure; contents have no checksums.
  Status check();
  // The error of the last call on this database. NoSpace when the disk is full.
  Error error(std::string_view what) const;
  sqlite3* handle() const { return handle_.get(); }

 private:
  struct Close {
    void operator()(sqlite3* handle) const;
  };
  std::unique_ptr<sqlite3, Close> handle_;
};

// A prepared statement. Parameters count from 1, columns from 0.
class Statement {
 public:
  static Result<Statement> prepare(const Database& database, std::string_view sql);

  // Bound bytes are copied.
  Statement& bind(int index, std::int64_t value);
  Statement& bind(int index, std::uint64_t value) {
    return bind(index, static_cast<std::int64_t>(value));
  }
  Statement& bind_text(int index, std::string_view value);
  Statement& bind_blob(int index, std::string_view value);

  // Runs a statement that returns no rows, and makes it ready for the next.
  Status run();
  // True while there is a row; false at the end (then ready for the next).
  Result<bool> step();
  std::int64_t integer(int column) const;
  std::uint64_t number(int column) const { return static_cast<std::uint64_t>(integer(column)); }
  std::string bytes(int column) const;

 private:
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const;
  };
  void reset();

  const Database* database_ = nullptr;
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
};

// Rolls back at its end unless commit() has succeeded.
class Transaction {
 public:
  static Result<Transaction> begin(Database& database);
  Transaction(Transaction&& other) noexcept : database_(std::exchange(other.database_, nullptr)) {}
  Transaction& operator=(Transaction&&) = delete;
  ~Transaction();
  Status commit();

 private:
  explicit Transaction(Database& database) : database_(&database) {}
  Database* database_;
};

}  // namespace baton::control
