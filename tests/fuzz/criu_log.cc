// CRIU's log, in which a job's own names stand.
#include "criu/explain.h"
#include "criu/log.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace baton;
  const std::string_view text = fuzz::as_text(data, size);
  fuzz::require(criu::first_error(text).size() <= size);
  fuzz::require(criu::tail(text, 100).size() <= 100);
  for (auto operation : {criu::Operation::Dump, criu::Operation::Restore}) {
    fuzz::require(!criu::explain(operation, "", text).text.empty());
    fuzz::require(!criu::explain(operation, text, "").text.empty());
  }
  return 0;
}
