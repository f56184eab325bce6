#include "wire/text.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include <algorithm>
#include <cctype>
#include <type_traits>
#include <vector>

namespace baton::wire {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

unsigned char at(std::string_view text, std::size_t index) {
  return index < text.size() ? static_cast<unsigned char>(text[index]) : 0;
}

// Bytes of the code point at the start of `text`; 0 if there is none. Unicode's table 3-7.
std::size_t code_point_bytes(std::string_view text) {
  const unsigned char first = at(text, 0);
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4) return 0;
  const std::size_t size = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  const unsigned char low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  const unsigned char high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  if (at(text, 1) < low || at(text, 1) > high) return 0;
  for (std::size_t i = 2; i < size; ++i)
    if (at(text, i) < 0x80 || at(text, i) > 0xbf) return 0;
  return size;
}

bool is_valid_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t size = code_point_bytes(text);
    if (size == 0) return false;
    text.remove_prefix(size);
  }
  return true;
}

// Calls visit(message, field, index) for each string in it, at any depth; index < 0: not repeated.
template <typename AnyMessage, typename Visitor>
void for_each_string(AnyMessage& message, const Visitor& visit) {
  const auto* reflection = message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const int count = field->is_repeated() ? reflection->FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      if (field->type() == FieldDescriptor::TYPE_STRING) {
        visit(message, field, field->is_repeated() ? i : -1);
      } else if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
        continue;
      } else if constexpr (std::is_const_v<AnyMessage>) {
        for_each_string(field->is_repeated() ? reflection->GetRepeatedMessage(message, field, i)
                                             : reflection->GetMessage(message, field),
                        visit);
      } else {
        for_each_string(
            *(field->is_repeated() ? reflection->MutableRepeatedMessage(&message, field, i)
                                   : reflection->MutableMessage(&message, field)),
            visit);
      }
    }
  }
}

std::string get(const Message& message, const FieldDescriptor* field, int index) {
  const auto* reflection = message.GetReflection();
  return index < 0 ? reflection->GetString(message, field)
                   : reflection->GetRepeatedString(message, field, index);
}

}  // namespace

std::string valid_utf8(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t size = code_point_bytes(text);
    if (size == 0) out += fmt::format("\\x{:02x}", at(text, 0));
    out += text.substr(0, size);
    text.remove_prefix(std::max<std::size_t>(size, 1));
  }
  return out;
}

void clean_text(Message& message) {
  for_each_string(message, [](Message& part, const FieldDescriptor* field, int index) {
    const std::string text = get(part, field, index);
    if (is_valid_utf8(text)) return;
    const auto* reflection = part.GetReflection();
    if (index < 0) {
      reflection->SetString(&part, field, valid_utf8(text));
    } else {
      reflection->SetRepeatedString(&part, field, index, valid_utf8(text));
    }
  });
}

Status check_text(const Message& message) {
  Status status;
  for_each_string(message, [&](const Message& part, const FieldDescriptor* field, int index) {
    const std::string text = get(part, field, index);
    if (!status || is_valid_utf8(text)) return;
    std::string name = field->name();
    if (const auto* type = part.GetDescriptor(); type->options().map_entry())
      name =
          type->name().substr(0, type->name().rfind("Entry"));  // EnvEntry: a key or value of env
    std::ranges::transform(name, name.begin(),
                           [](unsigned char c) { return c == '_' ? ' ' : std::tolower(c); });
    status = fail(ErrorCode::InvalidArgument,
                  fmt::format("{} \"{}\" is not valid UTF-8", name, valid_utf8(text)));
  });
  return status;
}

}  // namespace baton::wire
