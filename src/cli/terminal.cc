#include "cli/terminal.h"

#include <fmt/format.h>
#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <cctype>
#include <cstdio>

namespace baton::cli {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using Json = nlohmann::ordered_json;

// Terminal columns of UTF-8 text, taking each code point for one.
std::size_t width(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

// `index` < 0: the field is not repeated.
Json value_to_json(const Message& message, const FieldDescriptor* field, int index) {
  const Reflection* reflection = message.GetReflection();
  const bool single = index < 0;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return single ? reflection->GetBool(message, field)
                    : reflection->GetRepeatedBool(message, field, index);
    case FieldDescriptor::CPPTYPE_INT32:
      return single ? reflection->GetInt32(message, field)
                    : reflection->GetRepeatedInt32(message, field, index);
    case FieldDescriptor::CPPTYPE_UINT32:
      return single ? reflection->GetUInt32(message, field)
                    : reflection->GetRepeatedUInt32(message, field, index);
    case FieldDescriptor::CPPTYPE_INT64:
      return single ? reflection->GetInt64(message, field)
                    : reflection->GetRepeatedInt64(message, field, index);
    case FieldDescriptor::CPPTYPE_UINT64:
      return single ? reflection->GetUInt64(message, field)
                    : reflection->GetRepeatedUInt64(message, field, index);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return single ? reflection->GetDouble(message, field)
                    : reflection->GetRepeatedDouble(message, field, index);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return single ? reflection->GetFloat(message, field)
                    : reflection->GetRepeatedFloat(message, field, index);
    case FieldDescriptor::CPPTYPE_ENUM:
      return enum_word(field->enum_type(),
                       single ? reflection->GetEnumValue(message, field)
                              : reflection->GetRepeatedEnumValue(message, field, index));
    case FieldDescriptor::CPPTYPE_STRING:
      return single ? reflection->GetString(message, field)
                    : reflection->GetRepeatedString(message, field, index);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return to_json(single ? reflection->GetMessage(message, field)
                            : reflection->GetRepeatedMessage(message, field, index));
  }
  return nullptr;
}

Json map_to_json(const Message& message, const FieldDescriptor* field) {
  const Reflection* reflection = message.GetReflection();
  auto entries = Json::object();
  for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
    const Message& entry = reflection->GetRepeatedMessage(message, field, i);
    const auto* type = entry.GetDescriptor();
    const Json key = value_to_json(entry, type->map_key(), -1);
    entries[key.is_string() ? key.get<std::string>() : key.dump()] =
        value_to_json(entry, type->map_value(), -1);
  }
  return entries;
}

}  // namespace

void print_error(std::string_view message) {
  std::string line(message);
  while (!line.empty() && line.back() == '\n') line.pop_back();
  std::replace(line.begin(), line.end(), '\n', ' ');
  fmt::print(stderr, "baton: {}\n", line);
}

std::string Table::text() const {
  std::vector<std::size_t> widths;
  for (const auto& row : rows_) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(row[i]));
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line.append(widths[i] - width(row[i]) + 2, ' ');
    }
    while (!line.empty() && line.back() == ' ') line.pop_back();
    out += line + "\n";
  }
  return out;
}

void Table::print() const { fmt::print("{}", text()); }

Json to_json(const Message& message) {
  const Reflection* reflection = message.GetReflection();
  const auto* type = message.GetDescriptor();
  auto object = Json::object();
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor* field = type->field(i);
    if (field->is_map()) {
      object[field->name()] = map_to_json(message, field);
    } else if (field->is_repeated()) {
      auto list = Json::array();
      for (int k = 0; k < reflection->FieldSize(message, field); ++k)
        list.push_back(value_to_json(message, field, k));
      object[field->name()] = std::move(list);
    } else if (!field->has_presence() || reflection->HasField(message, field)) {
      object[field->name()] = value_to_json(message, field, -1);
    }
  }
  return object;
}

void print_json(const Json& value, bool pretty) {
  const std::string text =
      value.dump(pretty ? 2 : -1, ' ', false, nlohmann::json::error_handler_t::replace);
  fmt::print("{}\n", text);
  std::fflush(stdout);
}

std::string enum_word(const google::protobuf::EnumDescriptor* type, int value) {
  const auto* entry = type->FindValueByNumber(value);
  if (!entry) return fmt::format("{}", value);
  std::string word = entry->name();
  word.erase(0, word.find('_') + 1);
  for (char& c : word) c = c == '_' ? '-' : static_cast<char>(std::tolower(c));
  return word;
}

Status write_stdout(std::string_view data) {
  if (std::fwrite(data.data(), 1, data.size(), stdout) != data.size() || std::fflush(stdout) != 0)
    return fail_errno("write to standard output");
  return {};
}

}  // namespace baton::cli
