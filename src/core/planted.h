// Bugs that the simulation has to find (tests/sim). The product has none of them: planted() is
// false there at compile time. `sim_core_planted` is built with BATON_PLANTED_BUGS and turns one
// on.
#pragma once

namespace baton::core {

enum class Bug {
  None,
  SkipFenceMargin,        // recovers a lost node's jobs as soon as its lease should have run out
  AcceptStaleGeneration,  // believes reports about an incarnation that was superseded
  ReuseGeneration,        // a new incarnation gets the number of the one before
  LaunchBesideSource,     // a move restores at the target before the source stands still
  ForgetAttempt,          // does not write down that it sent an order to restore
  ResumeDespiteAttempt,   // lets the source go on while the target may be running
  KeepLostOutput,         // leaves in the log what a lost incarnation printed
  RestoreSuperseded,      // restores from checkpoints of another past
  ForgetRequest,          // does not answer whoever asked for a move
};

#ifdef BATON_PLANTED_BUGS
inline Bug planted_bug = Bug::None;
inline bool planted(Bug bug) { return planted_bug == bug; }
#else
constexpr bool planted(Bug) { return false; }
#endif

}  // namespace baton::core
