// Baton's version, the same as in CMakeLists.txt.
#pragma once

namespace baton {

inline constexpr const char* kVersion = "0.1.0";

}  // namespace baton
