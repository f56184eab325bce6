// Text on the wire. A protobuf string must be UTF-8: a message with one that is not is sent, and
// then refused as a whole by whoever reads it. File names and what programs print need not be
// UTF-8, and both get into errors and logs.
#pragma once

#include <google/protobuf/message.h>

#include <string>
#include <string_view>

#include "base/result.h"

namespace baton::wire {

// The text with each byte that is not part of valid UTF-8 written as "\xff".
std::string valid_utf8(std::string_view text);

// Makes every string in the message valid. For messages whose text is for people.
void clean_text(google::protobuf::Message& message);

// InvalidArgument that names a field and its value if a string is not valid UTF-8. For messages
// whose text means something.
Status check_text(const google::protobuf::Message& message);

}  // namespace baton::wire
