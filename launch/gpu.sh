#!/usr/bin/env bash
# Trains on the GPUs of one machine and restarts after a crash. One process drives all GPUs: the
# package splits each batch over them.
#
# usage: launch/gpu.sh [OPTIONS] COMMAND [ARGUMENT...]
#   launch/gpu.sh ddpm train configs/cifar10.py                 # all GPUs
#   launch/gpu.sh --gpus 0,1 ddpm train configs/cifar10.py      # the first two
#
#   --gpus LIST    GPUs by index or UUID as in nvidia-smi -L, separated by commas (all)
#   --restarts N   give up after N failures in a row (20)
#   --log FILE     also append all output to FILE
#   --detach       continue after the terminal is closed; needs --log
#   --dry-run      print the command instead of running it
#
# To stop, press Ctrl-C or send SIGTERM to the process that it names. The run is saved, and the same
# command continues it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

gpus='' restarts=20 log='' detach=''
while (($#)); do
  case $1 in
    --gpus) need "$1" $#; gpus=$2; shift 2 ;;
    --restarts) need "$1" $#; whole "$1" "$2"; restarts=$2; shift 2 ;;
    --log) need "$1" $#; log=$2; shift 2 ;;
    --detach) detach=1; shift ;;
    --dry-run) dry_run=1; shift ;;
    -h | --help) usage ;;
    --) shift; break ;;
    -*) die "unknown option $1; see $me --help" ;;
    *) break ;;
  esac
done
(($#)) || die "needs a command; see $me --help"
[[ ! $gpus || $gpus =~ ^[A-Za-z0-9-]+(,[A-Za-z0-9-]+)*$ ]] ||
  die "--gpus $gpus: give indices or UUIDs with commas, as in --gpus 0,1"
[[ ! $detach || $log ]] || die "--detach needs --log FILE, because there is no terminal to write to"

# In PCI order the indices are those of nvidia-smi; CUDA's default puts the fastest GPU first.
words=(env CUDA_DEVICE_ORDER=PCI_BUS_ID ${gpus:+"CUDA_VISIBLE_DEVICES=$gpus"}
  "$here/supervise.sh" --restarts "$restarts" -- "$@")
if [[ $dry_run ]]; then
  run "${words[@]}"
elif [[ $detach ]]; then
  nohup "${words[@]}" </dev/null >>"$log" 2>&1 &
  say "running; stop with: kill $!; follow with: tail -F $(quote "$log")"
elif [[ $log ]]; then
  # With a process substitution instead of a pipe, signals still reach the supervisor.
  exec "${words[@]}" > >(trap '' INT TERM HUP USR1 USR2; exec tee -a -- "$log") 2>&1
else
  exec "${words[@]}"
fi
