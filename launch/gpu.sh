#!/usr/bin/env bash
# Trains on the GPUs of one machine, from one to eight, and starts again after a crash. One process
# drives them all: JAX sees every GPU, and the package puts the batch over them.
#
# usage: launch/gpu.sh [OPTIONS] COMMAND [ARGUMENT...]
#   launch/gpu.sh ddpm train configs/cifar10.py                 # all GPUs
#   launch/gpu.sh --gpus 0,1 ddpm train configs/cifar10.py      # the first two
#
#   --gpus LIST    which GPUs, by index or UUID as nvidia-smi -L lists them, with commas (all)
#   --restarts N   give up after N failures in a row (20)
#   --log FILE     append all output to FILE too
#   --detach       go on after the terminal is closed; needs --log
#   --dry-run      print the command, run nothing
#
# Stop with Ctrl-C, or SIGTERM to the process it names: the run is saved, and the same command goes
# on.
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
[[ ! $detach || $log ]] || die "--detach needs --log FILE: there would be no terminal to write to"

# PCI order makes the indices those of nvidia-smi; CUDA's own puts the fastest first.
words=(env CUDA_DEVICE_ORDER=PCI_BUS_ID ${gpus:+"CUDA_VISIBLE_DEVICES=$gpus"}
  "$here/supervise.sh" --restarts "$restarts" -- "$@")
if [[ $dry_run ]]; then
  run "${words[@]}"
elif [[ $detach ]]; then
  nohup "${words[@]}" </dev/null >>"$log" 2>&1 &
  say "running; stop with: kill $!; follow with: tail -F $(quote "$log")"
elif [[ $log ]]; then
  # Into a process substitution, not a pipe: the supervisor stays the process that signals reach.
  exec "${words[@]}" > >(trap '' INT TERM; exec tee -a -- "$log") 2>&1
else
  exec "${words[@]}"
fi
