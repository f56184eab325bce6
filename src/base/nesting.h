// What parses JSON without recursion may still copy, write or free it with: text that nests deeply
// enough ends the stack.
#pragma once

#include <string_view>

namespace baton {

// Nothing that Baton writes comes near it.
inline constexpr int kMaxNesting = 64;

// Whether objects and arrays in the JSON text lie more than `levels` deep in each other. The text
// may be anything; the answer is for what a parser would take of it.
bool nests_deeper(std::string_view json, int levels = kMaxNesting);

}  // namespace baton
