// baton doctor: what this machine can do, found out by doing it.
#pragma once

#include <CLI/CLI.hpp>

namespace baton {

void add_doctor(CLI::App& app, int& exit_code);

}  // namespace baton
