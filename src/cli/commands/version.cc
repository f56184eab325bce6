// baton version: of this program and of the controller.
#include "base/version.h"

#include <memory>

#include "cli/commands/commands.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "cli/units.h"

namespace baton::cli {
namespace {

Result<int> version(Session& session, bool json) {
  auto reply = session.call(&v1::Api::Stub::Version, v1::Empty());
  if (json) {
    nlohmann::ordered_json object = {{"version", kVersion}};
    object["controller"] = reply ? to_json(*reply) : nlohmann::ordered_json();
    print_json(object);
    return 0;
  }
  fmt::print("baton {}\n", kVersion);
  if (reply)
    fmt::print("controller {} at {}, up since {}, lease {}\n", reply->version(), session.address(),
               format_date(reply->started_wall_ms()),
               format_duration_ms(static_cast<double>(reply->lease_ms())));
  else
    fmt::print("controller: none answers at {}\n", session.address());
  return 0;
}

}  // namespace

void add_version(Program& program) {
  auto json = std::make_shared<bool>(false);
  auto* command =
      add_command(program, "version",
                  "Show the version of this program and of the controller, if one answers.");
  command->add_flag("--json", *json, "As JSON.");
  on(program, command, [json](Session& session) { return version(session, *json); });
}

}  // namespace baton::cli
