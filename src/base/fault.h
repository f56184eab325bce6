// Named fault points: compiled in, off unless asked for through BATON_FAULTS.
//
//   BATON_FAULTS="ship.before_commit=error,restore.before_criu=crash,dump.frozen=delay:500"
//
// error   fault() returns an error once per process
// errors  fault() returns an error each time
// crash   the process ends at once by SIGKILL
// delay   fault() waits for so many milliseconds
// hold    fault() creates the file BATON_FAULTS_FILE.POINT and waits until the point has no action
//
// A file named by BATON_FAULTS_FILE has the same content and is read at each call, so that a
// test can arm a point in a running process. Thread-safe.
#pragma once

#include "base/result.h"

namespace baton {

Status fault(std::string_view point);

}  // namespace baton
