#!/usr/bin/env bash
# Repeats the paper's CIFAR-10 result (Ho et al. 2020: FID 3.17 after 800,000 steps): trains, draws
# 50,000 samples as PNG files, and compares them with the training set as the paper does.
#
# usage: launch/reproduce_cifar10.sh --weights FILE [OPTIONS] [SETTING VALUE...]
#   launch/reproduce_cifar10.sh --weights inception.safetensors
#   launch/reproduce_cifar10.sh --smoke                # a few steps, 64 samples, pixels, no weights
#
#   --weights FILE   the weights of Inception, as for ddpm evaluate
#   --workdir DIR    the run's folder, which also gets the samples and evaluation.json
#                    (runs/cifar10, or runs/cifar10-smoke)
#   --num N          how many samples to draw (50000, or 64); fewer are not the paper's FID
#   --smoke          the smallest form, to see that everything works
#   --dry-run        print the commands instead of running them
#
# SETTINGs follow the options. Those of training go to ddpm train (--model.dtype bfloat16), and
# --distributed.* go to every command: so gpu.sh, local.sh and slurm.sbatch can start this script, in
# several processes too (give --workdir there). After a kill the same command goes on, and skips what
# is done. A signal is passed on, and the run is saved.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

weights='' workdir='' num='' smoke='' settings=() shared=()
while (($#)); do
  case $1 in
    --weights) need "$1" $#; weights=$2; shift 2 ;;
    --workdir) need "$1" $#; workdir=$2; shift 2 ;;
    --num) need "$1" $#; whole "$1" "$2"; num=$2; shift 2 ;;
    --smoke) smoke=1; shift ;;
    --dry-run) dry_run=1; shift ;;
    -h | --help) usage ;;
    --distributed.*) need "$1" $#; shared+=("$1" "$2"); shift 2 ;;
    --*.*) need "$1" $#; settings+=("$1" "$2"); shift 2 ;;
    *) die "unknown option $1; see $me --help" ;;
  esac
done
if [[ ! $smoke && ! $weights ]]; then
  die 'needs --weights FILE, the weights of Inception; or --smoke, which needs none'
elif [[ $weights && ! -f $weights && ! $dry_run ]]; then
  die "--weights $weights does not exist; name the file, or leave it out with --smoke"
fi

workdir=${workdir:-runs/cifar10${smoke:+-smoke}}
num=${num:-$([[ $smoke ]] && echo 64 || echo 50000)}
pictures=$workdir/samples-$num output=$workdir/evaluation.json
judged=(--features inception --weights "$weights" --metrics fid inception_score)
if [[ $smoke ]]; then judged=(--features pixels --metrics coverage); fi

pass_signals_on

stage() { # COMMAND...: runs it; if it fails, or after a signal, that ends the script
  if [[ $dry_run ]]; then
    run "$@"
    return
  fi
  attend "$@"
  if ((code != 0)); then exit "$code"; fi
}

# It says in one line, before it begins, if the data are missing.
train=(ddpm train cifar10 --workdir "$workdir" ${smoke:+--smoke} "${settings[@]}" "${shared[@]}")
stage "${train[@]}"
if [[ ! $dry_run ]]; then
  left=0
  python3 "$here/finished.py" "${train[@]}" || left=$?
  # Exit code 0 has two meanings; 10 says that the run is saved with steps left.
  if ((left == 10)) || [[ $stopping && $left != 0 ]]; then
    say 'stopped before the last step; run the same command again to continue'
    exit 0
  fi
fi
if [[ $stopping ]]; then exit "$stopping"; fi

stage ddpm sample "$workdir" --num "$num" --output "$pictures" --format png "${shared[@]}"
if [[ $stopping ]]; then exit "$stopping"; fi

if [[ -s $output ]]; then
  say "$output is there; remove it to evaluate again"
else
  stage ddpm evaluate "$pictures" --reference "$workdir" "${judged[@]}" --output "$output" "${shared[@]}"
fi
