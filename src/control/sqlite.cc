#include "control/sqlite.h"

#include <sqlite3.h>

#include "sys/file.h"

namespace baton::control {

void Database::Close::operator()(sqlite3* handle) const { sqlite3_close_v2(handle); }
void Statement::Finalize::operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }

Error Database::error(std::string_view what) const {
  int code = sqlite3_errcode(handle_.get());
  int system = sqlite3_system_errno(handle_.get());
  bool full =
      code == SQLITE_FULL || (code == SQLITE_IOERR && (system == ENOSPC || system == EDQUOT));
  bool damaged = code == SQLITE_CORRUPT || code == SQLITE_NOTADB;
  return Error(full      ? ErrorCode::NoSpace
               : damaged ? ErrorCode::Damaged
                         : ErrorCode::Internal,
               fmt::format("{}: {}", what, sqlite3_errmsg(handle_.get())));
}

Result<std::unique_ptr<Database>> Database::open(const std::filesystem::path& path) {
  auto database = std::make_unique<Database>();
  sqlite3* raw = nullptr;
  int code =
      sqlite3_open_v2(path.c_str(), &raw,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nullptr);
  database->handle_.reset(raw);
  if (code != SQLITE_OK) return fail(database->error(fmt::format("open {}", path.string())));
  sqlite3_busy_timeout(raw, 5'000);
  for (const char* pragma :
       {"PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA temp_store=MEMORY"})
    BATON_CHECK_CTX(database->execute(pragma), path.string());
  return database;
}

Result<std::string> Database::move_aside(const std::filesystem::path& path) {
  for (int attempt = 1;; ++attempt) {
    const std::string aside = fmt::format("{}.damaged-{}", path.string(), attempt);
    std::error_code error;
    if (std::filesystem::exists(aside, error)) continue;
    // The journal first: it must never meet another database.
    for (const char* suffix : {"-wal", "-shm", ""}) {
      std::filesystem::rename(path.string() + suffix, aside + suffix, error);
      if (error && error != std::errc::no_such_file_or_directory)
        return fail(ErrorCode::Internal,
                    fmt::format("move {} aside: {}", path.string(), error.message()));
    }
    BATON_CHECK(sys::sync_directory(path.parent_path()));
    return aside;
  }
}

Status Database::execute(const std::string& sql) {
  if (sqlite3_exec(handle_.get(), sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK)
    return fail(error("database"));
  return {};
}

Status Database::check() {
  BATON_TRY(auto query, Statement::prepare(*this, "PRAGMA quick_check(1)"));
  BATON_TRY(const bool row, query.step());
  const std::string found = row ? query.bytes(0) : "";
  if (found == "ok") return {};
  return fail(ErrorCode::Damaged, fmt::format("database: {}", found));
}

Result<Statement> Statement::prepare(const Database& database, std::string_view sql) {
  Statement statement;
  statement.database_ = &database;
  sqlite3_stmt* raw = nullptr;
  if (sqlite3_prepare_v2(database.handle(), sql.data(), static_cast<int>(sql.size()), &raw,
                         nullptr) != SQLITE_OK)
    return fail(database.error(fmt::format("database: {}", sql)));
  statement.statement_.reset(raw);
  return statement;
}

Statement& Statement::bind(int index, std::int64_t value) {
  sqlite3_bind_int64(statement_.get(), index, value);
  return *this;
}

Statement& Statement::bind_text(int index, std::string_view value) {
  sqlite3_bind_text64(statement_.get(), index, value.data(), value.size(), SQLITE_TRANSIENT,
                      SQLITE_UTF8);
  return *this;
}

Statement& Statement::bind_blob(int index, std::string_view value) {
  sqlite3_bind_blob64(statement_.get(), index, value.data() ? value.data() : "", value.size(),
                      SQLITE_TRANSIENT);
  return *this;
}

void Statement::reset() {
  sqlite3_reset(statement_.get());
  sqlite3_clear_bindings(statement_.get());
}

Result<bool> Statement::step() {
  int code = sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) {
    reset();
    return false;
  }
  Error error = database_->error("database");
  reset();
  return fail(std::move(error));
}

Status Statement::run() {
  BATON_TRY(bool row, step());
  if (row) reset();
  return {};
}

std::int64_t Statement::integer(int column) const {
  return sqlite3_column_int64(statement_.get(), column);
}

std::string Statement::bytes(int column) const {
  const void* data = sqlite3_column_blob(statement_.get(), column);
  int size = sqlite3_column_bytes(statement_.get(), column);
  return data ? std::string(static_cast<const char*>(data), static_cast<std::size_t>(size)) : "";
}

Result<Transaction> Transaction::begin(Database& database) {
  BATON_CHECK(database.execute("BEGIN IMMEDIATE"));
  return Transaction(database);
}

Status Transaction::commit() {
  BATON_CHECK(database_->execute("COMMIT"));
  database_ = nullptr;
  return {};
}

Transaction::~Transaction() {
  if (database_) (void)database_->execute("ROLLBACK");
}

}  // namespace baton::control
