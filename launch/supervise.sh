#!/usr/bin/env bash
# Runs a training command, and runs it again when it crashes or another host's end stops it.
#
# usage: launch/supervise.sh [OPTIONS] COMMAND [ARGUMENT...]
#   launch/supervise.sh ddpm train configs/digits.py
#
#   --restarts N   give up after N failures in a row (20; 0 runs once); a run of ten minutes or more
#                  that then fails starts the count again
#   --pause S      seconds before the first restart (5); doubled each time, up to five minutes
#   --dry-run      print the command, run nothing
#
# Not run again: exit 0 of a finished run, 2 (a mistake of the user's: it would be made again), 130
# (Ctrl-C). SIGTERM and SIGINT are passed on, the command saves and ends, and the exit code is then
# 143 or 130 unless the run is done.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

restarts=20 pause=5 longest=300 steady=600
while (($#)); do
  case $1 in
    --restarts) need "$1" $#; whole "$1" "$2"; restarts=$2; shift 2 ;;
    --pause) need "$1" $#; whole "$1" "$2"; pause=$2; shift 2 ;;
    --dry-run) dry_run=1; shift ;;
    -h | --help) usage ;;
    --) shift; break ;;
    -*) die "unknown option $1; see $me --help" ;;
    *) break ;;
  esac
done
(($#)) || die "needs a command; see $me --help"
if [[ $dry_run ]]; then
  run "$@"
  exit
fi

child='' told='' interrupted=''
# shellcheck disable=SC2329  # The traps call it.
pass_on() { # SIGNAL CODE
  told=$2 interrupted=1
  if [[ $child ]]; then kill -s "$1" "$child" 2>/dev/null || true; fi
}
trap 'pass_on TERM 143' TERM
trap 'pass_on INT 130' INT

# Job control gives the command a process group of its own: else a Ctrl-C in the terminal would
# reach it twice, from the terminal and from here, and the second one ends it without a save.
set -m

# await PID: its exit code into `code`. A trap makes `wait` return early, with a code of its own.
await() {
  interrupted=1
  while [[ $interrupted ]]; do
    interrupted='' code=0
    wait "$1" || code=$?
  done
}

# finished COMMAND...: whether exit 0 was the end. The run's folder knows; where it can't say, the
# exit code is believed, unless a signal may have been its reason.
finished() {
  local answer=0
  python3 "$here/finished.py" "$@" || answer=$?
  if ((answer != 0 && answer != 10)) && [[ ! $told ]]; then answer=0; fi
  return "$answer"
}

failures=0 wait_for=$pause
while [[ ! $told ]]; do
  begun=$SECONDS
  "$@" </dev/null &
  child=$!
  # The signal may have come before there was a child to pass it to.
  if [[ $told ]]; then kill -s TERM "$child" 2>/dev/null || true; fi
  await "$child"
  child=''
  if ((code == 2 || code == 130)); then exit "$code"; fi
  if ((code == 0)) && finished "$@"; then exit 0; fi
  if [[ $told ]]; then break; fi
  ended="exited $code"
  if ((code == 0)); then
    # Zero would say that the run is done.
    ended='saved and ended with steps left to do' code=75
  fi
  if ((SECONDS - begun >= steady)); then failures=0 wait_for=$pause; fi
  failures=$((failures + 1))
  if ((failures > restarts)); then
    say "$1 $ended; not started again after $restarts restarts"
    exit "$code"
  fi
  say "$1 $ended; restart $failures of $restarts in $wait_for s"
  sleep "$wait_for" &
  child=$!
  if [[ $told ]]; then kill "$child" 2>/dev/null || true; fi
  await "$child"
  child=''
  wait_for=$((wait_for * 2 > longest ? longest : wait_for * 2))
done
say 'stopped by a signal; the same command goes on where it stopped'
exit "$told"
