// What appears on the terminal: aligned tables, one-line errors, JSON.
#pragma once

#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace baton::cli {

// "baton: message", one line, on stderr.
void print_error(std::string_view message);

// Columns as wide as their widest cell, two spaces apart; the last one is not padded. Cells that
// parse as numbers with a unit are not treated specially: everything is left-aligned.
class Table {
 public:
  explicit Table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string text() const;
  void print() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// Keys are the schema's field names; enums are lower-case words ("gone-quiet"); 64-bit integers
// are numbers; bytes become text. Every field is present except optional ones that are not set.
nlohmann::ordered_json to_json(const google::protobuf::Message& message);
// The same for each element of a repeated field.
template <typename Items>
nlohmann::ordered_json to_json_list(const Items& items) {
  auto list = nlohmann::ordered_json::array();
  for (const auto& item : items) list.push_back(to_json(item));
  return list;
}
// On stdout; bytes that are not UTF-8 are replaced. Indented by two when `pretty`, else one line.
void print_json(const nlohmann::ordered_json& value, bool pretty = true);

// The schema's lower-case word for an enum value: JOB_RUNNING -> "running".
std::string enum_word(const google::protobuf::EnumDescriptor* type, int value);

// Writes bytes as they are to stdout, now. Cancelled when nobody reads any more.
Status write_stdout(std::string_view data);

}  // namespace baton::cli
