// One function per command, each in a file of its own.
#pragma once

namespace baton::cli {

class Program;

void add_run(Program& program);
void add_ps(Program& program);
void add_inspect(Program& program);
void add_logs(Program& program);
void add_wait(Program& program);
void add_checkpoint(Program& program);
void add_checkpoints(Program& program);
void add_pin(Program& program);
void add_unpin(Program& program);
void add_verify(Program& program);
void add_store(Program& program);
void add_export(Program& program);
void add_import(Program& program);
void add_diff(Program& program);
void add_migrate(Program& program);
void add_restore(Program& program);
void add_stop(Program& program);
void add_kill(Program& program);
void add_rm(Program& program);
void add_nodes(Program& program);
void add_drain(Program& program);
void add_cordon(Program& program);
void add_uncordon(Program& program);
void add_events(Program& program);
void add_version(Program& program);
void add_login(Program& program);
void add_token(Program& program);
void add_members(Program& program);
void add_node(Program& program);
void add_user(Program& program);
// Hidden: for `baton up`.
void add_await_nodes(Program& program);
void add_join_tokens(Program& program);

}  // namespace baton::cli
