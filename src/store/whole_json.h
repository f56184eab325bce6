// JSON of which all numbers are whole ones. A fraction, or a number with more digits than 64 bits
// have, is none of ours, and to take it for a whole one is not defined.
#pragma once

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>

namespace baton::store {

// Throws what nlohmann::json::parse() does, or that there is another number. The text does not nest
// deeply: see base/nesting.h.
inline nlohmann::json parse_whole_json(std::string_view text) {
  using json = nlohmann::json;
  return json::parse(text, [](int, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::value && value.is_number_float())
      throw std::runtime_error("a number is not a whole one");
    return true;
  });
}

}  // namespace baton::store
