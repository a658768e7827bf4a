#!/usr/bin/env bash
# Runs a training command, and restarts it when it crashes or stops because another host failed.
#
# usage: launch/supervise.sh [OPTIONS] COMMAND [ARGUMENT...]
#   launch/supervise.sh ddpm train configs/digits.py
#
#   --restarts N   give up after N failures in a row (20; 0 runs once); a failure after ten minutes
#                  or more starts the count again
#   --pause S      seconds before the first restart (5); doubled each time, up to five minutes
#   --dry-run      print the command instead of running it
#
# It does not restart after exit code 0 of a finished run, 2 (a mistake of the user, which would
# happen again) and 130 (Ctrl-C). It passes SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2 on. The
# command then saves and ends, and the exit code is 128 + the signal unless the run is finished.
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

pass_signals_on

# finished COMMAND...: whether exit code 0 means a finished run. If the run's folder can't tell, it
# does, unless a signal may have caused the exit.
finished() {
  local answer=0
  python3 "$here/finished.py" "$@" || answer=$?
  if ((answer != 0 && answer != 10)) && [[ ! $stopping ]]; then answer=0; fi
  return "$answer"
}

failures=0 wait_for=$pause
while [[ ! $stopping ]]; do
  begun=$SECONDS
  attend "$@"
  if ((code == 2 || code == 130)); then exit "$code"; fi
  if ((code == 0)) && finished "$@"; then exit 0; fi
  if [[ $stopping ]]; then break; fi
  ended="exited $code"
  if ((code == 0)); then
    # Exit code 0 would mean that the run is finished.
    ended='saved and ended with steps left' code=75
  fi
  if ((SECONDS - begun >= steady)); then failures=0 wait_for=$pause; fi
  failures=$((failures + 1))
  if ((failures > restarts)); then
    say "$1 $ended; not restarted after $restarts restarts"
    exit "$code"
  fi
  say "$1 $ended; restart $failures of $restarts in $wait_for s"
  attend sleep "$wait_for"
  wait_for=$((wait_for * 2 > longest ? longest : wait_for * 2))
done
say 'stopped by a signal; run the same command again to continue'
exit "$stopping"
