# The main job, played on any cluster of two nodes. Sourced by the demos, which define:
#
#   NODE_1, NODE_2          names of the nodes
#   PROGRAM                 path of simple_loop on the nodes
#   RESULT                  where the JSON goes
#   baton ARGS…             runs the program against the cluster's controller
#   load_start, load_stop   real CPU load on NODE_1
#   power_cut               ends every process of NODE_2 at once
#
# Waits for events, never for time; each wait has a limit after which the demo fails.

DELAY=${DELAY:-0.3}         # seconds between two integers
INTERVAL=${INTERVAL:-400ms} # between checkpoints
PATIENCE=${PATIENCE:-60}    # seconds for any one event
JOB=simple_loop

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
die() { echo "demo: $*" >&2; exit 1; }

# The policy of a demo: as the defaults, but quicker to act.
write_policy() {
  cat >"$1" <<'END'
cpu_threshold = 0.85
cpu_clear = 0.70
cpu_for_ms = 1500
cooldown_ms = 20000
END
}

# The story for the reader, and the same events for this script: one filter process for all of them,
# so that a busy machine can't make the script fall behind.
open_events() {
  "${BATON[@]}" events -f &
  STORY=$!
  exec {EVENTS}< <("${BATON[@]}" events -f --json & echo $!; wait)
  read -r EVENTS_PID <&"$EVENTS"
  exec {FACTS}< <(exec jq --unbuffered -r \
    '[.kind, .job_name, .node, .timing.cause // "-", (.timing.ok // false)] | map(tostring) | join("|")' <&"$EVENTS")
}

close_events() {
  kill ${STORY:-} ${EVENTS_PID:-} 2>/dev/null || true
  wait "${STORY:-}" 2>/dev/null || true
  STORY='' EVENTS_PID=''
}

# await_event WHAT PATTERN: reads on until an event, as kind|job|node|cause of a move|ok, matches.
await_event() {
  local what=$1 pattern=$2 facts='' end=$((SECONDS + PATIENCE))
  while [ $SECONDS -lt $end ] && IFS= read -r -t "$PATIENCE" -u "$FACTS" facts; do
    # shellcheck disable=SC2053 # it is a pattern
    if [[ $facts == $pattern ]]; then return; fi
    case $facts in
      job-exited\|$JOB\|* | job-failed\|$JOB\|*) die "the job ended before this happened: $what" ;;
    esac
  done
  die "never happened: $what (last event: ${facts:-none})"
}

play() {
  open_events
  say "1. $PROGRAM $DELAY on $NODE_1, a checkpoint every $INTERVAL"
  baton run --detach --name $JOB --node "$NODE_1" --interval "$INTERVAL" --workdir / -- "$PROGRAM" "$DELAY" >/dev/null
  for n in 1 2 3; do
    await_event "checkpoint $n" "checkpoint|$JOB|*"
  done

  say "2. real CPU load on $NODE_1"
  load_start
  await_event "a move away from the overloaded $NODE_1" "move|$JOB|*|cpu-overload|true"

  say "3. the load goes away"
  load_stop
  for n in 1 2; do
    await_event "a checkpoint taken on $NODE_2" "checkpoint|$JOB|$NODE_2|*"
  done

  say "4. power cut: every process of $NODE_2 is killed at once"
  power_cut
  await_event "the recovery from the lost $NODE_2" "move|$JOB|*|node-lost|true"
  local code=0
  baton wait --timeout "${PATIENCE}s" $JOB || code=$?
  close_events
  judge "$code"
}

# judge EXIT-CODE: what really came out, from the stored output and the controller's events.
judge() {
  local events
  events=$(mktemp)
  baton events --json --job $JOB >"$events"
  baton logs $JOB | jq -R . | jq -s --slurpfile events "$events" --argjson code "$1" '
    (map(tonumber? // -1)) as $seen
    | [$events[] | select(.kind == "move" and .timing.ok) | .timing] as $moves
    | { values: ($seen | length),
        in_order: ($seen == ($seen | sort)),
        duplicates: (($seen | length) - ($seen | unique | length)),
        gaps: ([range(100)] - $seen | length),
        exit_code: $code,
        moves: ($moves | map({cause, from, to, downtime_ms, detect_ms, decide_ms, transfer_ms, restore_ms, checkpoint})),
        checkpoints: ([$events[] | select(.kind == "checkpoint")] | length) }' >"$RESULT"
  rm -f "$events"

  say "5. what it took (milliseconds)"
  printf '%-14s %-12s %-12s %9s %9s %9s %9s %9s\n' CAUSE FROM TO DETECT DECIDE TRANSFER RESTORE DOWNTIME
  jq -r '.moves[] | [.cause, .from, .to, .detect_ms, .decide_ms, .transfer_ms, .restore_ms, .downtime_ms] | @tsv' "$RESULT" |
    while IFS=$'\t' read -r cause from to detect decide transfer restore downtime; do
      printf '%-14s %-12s %-12s %9.1f %9.1f %9.1f %9.1f %9.1f\n' \
        "$cause" "$from" "$to" "$detect" "$decide" "$transfer" "$restore" "$downtime"
    done
  echo
  jq -c . "$RESULT"
  jq -e --arg one "$NODE_1" --arg two "$NODE_2" '
    .values == 100 and .in_order and .duplicates == 0 and .gaps == 0 and .exit_code == 0
    and (.moves | map([.cause, .from, .to])) == [["cpu-overload", $one, $two], ["node-lost", $two, $one]]
    and .checkpoints >= 3' "$RESULT" >/dev/null || die "the result is wrong, see $RESULT"
  echo
  echo "All 100 values, each once and in order, over two moves. Written to $RESULT"
}
