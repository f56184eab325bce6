// The two clocks of Baton. Leases and durations use boot time (it runs through suspend and no
// one can set it); wall time is for people only and never decides anything.
#pragma once

#include <cstdint>

namespace baton {

// CLOCK_BOOTTIME in nanoseconds. Comparable on one machine only.
std::int64_t boot_time_ns();
// CLOCK_REALTIME in milliseconds since the epoch.
std::int64_t wall_time_ms();

inline std::int64_t boot_time_ms() { return boot_time_ns() / 1'000'000; }

}  // namespace baton
