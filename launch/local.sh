#!/usr/bin/env bash
# Runs N processes of one command on this machine's CPU, one device each, joined by gloo: a trial of
# what a pod of N hosts does.
#
# usage: launch/local.sh [OPTIONS] N COMMAND [ARGUMENT...]
#   launch/local.sh 4 ddpm train configs/digits.py --smoke
#
#   --grace S   seconds to wait for the other processes after one fails, before killing them (90)
#   --dry-run   print the N commands instead of running them
#
# It appends --distributed.coordinator, .num_processes and .process_id to each command, and begins
# each line of output with the process's number. It passes signals on to all processes.
# The exit code is that of the first process that failed, or 0.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

grace=90
while (($#)); do
  case $1 in
    --grace) need "$1" $#; whole "$1" "$2"; grace=$2; shift 2 ;;
    --dry-run) dry_run=1; shift ;;
    -h | --help) usage ;;
    -*) die "unknown option $1; see $me --help" ;;
    *) break ;;
  esac
done
(($# >= 2)) || die "needs a number of processes and a command; see $me --help"
[[ $1 =~ ^[1-9][0-9]*$ ]] || die "N is $1; it must be a whole number from 1"
count=$1
shift

# The kernel gives a free port. If another process takes it before the coordinator does, the package
# says so.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

# XLA_FLAGS may still set a number of virtual devices per process; gloo hangs with more than one.
flags=${XLA_FLAGS:-}
while [[ $flags =~ --xla_force_host_platform_device_count=[0-9]+ ]]; do
  flags=${flags/"${BASH_REMATCH[0]}"/}
done

environment=(
  env JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=1 JAX_CPU_COLLECTIVES_IMPLEMENTATION=gloo
  PYTHONUNBUFFERED=1 XLA_FLAGS="$flags"
)
ranked() { # INDEX: puts the command of one process into `words`
  words=("${environment[@]}" "${command[@]}" --distributed.coordinator "127.0.0.1:$port"
    --distributed.num_processes "$count" --distributed.process_id "$1")
}
command=("$@")

if [[ $dry_run ]]; then
  for ((i = 0; i < count; i++)); do
    ranked "$i"
    run "${words[@]}"
  done
  exit
fi

pids=() labels=()
declare -A index=()
# shellcheck disable=SC2329  # The traps call it.
pass_on() { # SIGNAL
  local pid
  for pid in "${!index[@]}"; do kill -s "$1" "$pid" 2>/dev/null || true; done
}
for name in TERM INT HUP USR1 USR2; do
  # shellcheck disable=SC2064  # The name is that of this turn.
  trap "pass_on $name" "$name"
done

# Each process has its own process group, so that a Ctrl-C reaches it once, from here. The labelling
# ignores signals, so that it shows the last lines of the processes.
set -m
for ((i = 0; i < count; i++)); do
  ranked "$i"
  exec {pipe}> >(trap '' INT TERM HUP USR1 USR2; while IFS= read -r line || [[ $line ]]; do printf '[%s] %s\n' "$i" "$line"; done)
  labels+=($!)
  "${words[@]}" </dev/null >&"$pipe" 2>&1 &
  pids+=($!)
  index[$!]=$i
  exec {pipe}>&-
done

# Check five times a second, then `wait` for a process that has ended. `wait -n` would miss a process
# that ends while another one is being reported.
failed=0 reaper=''
while ((${#index[@]})); do
  for pid in "${pids[@]}"; do
    if [[ ! ${index[$pid]:-} ]] || kill -0 "$pid" 2>/dev/null; then continue; fi
    code=0
    wait "$pid" || code=$?
    say "process ${index[$pid]} exited $code"
    unset "index[$pid]"
    if ((failed == 0)); then failed=$code; fi
  done
  if ((failed != 0 && ${#index[@]} != 0)) && [[ ! $reaper ]]; then
    # The package ends the other processes itself; this is for processes that hang.
    (
      trap - TERM INT HUP USR1 USR2
      sleep "$grace"
      kill -s TERM "${!index[@]}" 2>/dev/null
      sleep 10
      kill -s KILL "${!index[@]}" 2>/dev/null
    ) &
    reaper=$!
  fi
  # In the background, because a command in the foreground would receive the Ctrl-C.
  sleep 0.2 &
  wait $! || true
done
if [[ $reaper ]]; then kill -s TERM -- "-$reaper" 2>/dev/null || true; fi
wait "${labels[@]}" 2>/dev/null || true
exit "$failed"
