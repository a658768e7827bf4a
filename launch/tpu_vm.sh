#!/usr/bin/env bash
# Trains on Cloud TPU VMs, one host or a slice of many, through gcloud's queued resources.
#
# usage: launch/tpu_vm.sh ACTION NAME [OPTIONS] [-- COMMAND [ARGUMENT...]]
#   launch/tpu_vm.sh create tpu1 --zone us-east5-b --type v6e-8 --spot
#   launch/tpu_vm.sh setup  tpu1 --zone us-east5-b
#   launch/tpu_vm.sh train  tpu1 --zone us-east5-b -- \
#       ddpm train configs/cifar10.py --workdir gs://BUCKET/cifar10
#   launch/tpu_vm.sh train  tpu1 --zone us-east5-b --type v6e-8 --spot --keep -- ddpm train …
#
# actions
#   create   ask for the TPU; it waits in Google's queue until there is one
#   setup    put this checkout and its Python environment on all workers
#   train    start the command on all workers, under a supervisor that restarts it after a crash
#            and after a reboot; with --keep, also create and set up what is missing, stay, and do
#            it all again after each preemption, until the run is finished
#   logs     follow the output of worker 0
#   status   the TPU's state, and the training's on each worker
#   stop     end the training with a save; the TPU stays, and costs
#   delete   give the TPU back
#
# options
#   --zone ZONE, --project ID   where (else gcloud's own settings)
#   --type TYPE                 create: v4-8, v5litepod-16, v5p-8, v6e-8 …
#   --runtime VERSION           create: the image (else the one for the type)
#   --spot                      create: cheap, and may be taken away at any time
#   --create-flag FLAG          create: one more flag for gcloud, as --service-account=…; repeat
#   --git URL, --ref NAME       setup: clone this, rather than send the checkout (with its
#                               uncommitted changes, without untracked files)
#   --keep                      train: see above
#   --poll S                    train --keep: seconds between looks (60)
#   --worker N                  logs: another worker; --lines N: begin with so many lines (100);
#                               --no-follow: and end there
#   --dry-run                   print the commands, run nothing
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

case ${1:-} in
  create | setup | train | logs | status | stop | delete) action=$1 ;;
  -h | --help) usage ;;
  '') die "needs an action; see $me --help" ;;
  *) die "there is no action $1; see $me --help" ;;
esac
shift

name='' type='' runtime='' spot='' git_url='' git_ref='' keep='' poll=60 worker=0 lines=100
follow=1 place=() create_flags=() command=()
while (($#)); do
  case $1 in
    --zone | --project) need "$1" $#; place+=("$1=$2"); shift 2 ;;
    --type) need "$1" $#; type=$2; shift 2 ;;
    --runtime) need "$1" $#; runtime=$2; shift 2 ;;
    --spot) spot=1; shift ;;
    --create-flag) need "$1" $#; create_flags+=("$2"); shift 2 ;;
    --git) need "$1" $#; git_url=$2; shift 2 ;;
    --ref) need "$1" $#; git_ref=$2; shift 2 ;;
    --keep) keep=1; shift ;;
    --poll) need "$1" $#; whole "$1" "$2"; poll=$2; shift 2 ;;
    --worker) need "$1" $#; whole "$1" "$2"; worker=$2; shift 2 ;;
    --lines) need "$1" $#; whole "$1" "$2"; lines=$2; shift 2 ;;
    --no-follow) follow=''; shift ;;
    --dry-run) dry_run=1; shift ;;
    -h | --help) usage ;;
    --) shift; command=("$@"); break ;;
    -*) die "unknown option $1; see $me --help" ;;
    *) [[ ! $name ]] || die "$1: a second name; put the command after --"; name=$1; shift ;;
  esac
done
[[ $name =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] ||
  die "the TPU's name is '$name'; it must be of a-z, 0-9 and -, from a letter on"
[[ ! $git_ref || $git_url ]] || die '--ref needs --git URL'
if [[ $action == train ]]; then
  ((${#command[@]})) || die "train needs -- COMMAND; see $me --help"
elif ((${#command[@]})); then
  die "$action takes no command"
fi

queue() { # VERB FLAG...
  run gcloud compute tpus queued-resources "$1" "$name" "${@:2}" "${place[@]}"
}

# on WORKERS COMMAND_LINE: gcloud hands the line to the workers' login shell as it is, so that one
# level of quoting is right: the words', by `quote`.
on() {
  run gcloud compute tpus tpu-vm ssh "$name" "--worker=$1" "--command=$2" "${place[@]}"
}

# The image for each generation, by Google's table of TPU software versions.
runtime_of() {
  case $1 in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v[234]-*) echo tpu-ubuntu2204-base ;;
    *) die "no image is known for --type $1; give --runtime VERSION" ;;
  esac
}

create() {
  queue create "--node-id=$name" "--accelerator-type=$type" "--runtime-version=$runtime" \
    ${spot:+--spot} "${create_flags[@]}"
}

# In the two below, && does what set -e can't: it is off in a function that an `if` asks.
send_checkout() {
  local tree=HEAD
  if [[ ! $dry_run ]]; then
    # A commit of the working tree as it is; nothing if that is HEAD's.
    tree=$(git -C "$here" stash create) || die "${here%/*} is no git checkout; give --git URL"
  fi
  run git -C "${here%/*}" archive --format=tar.gz "--output=$scratch/ddpm.tar.gz" "${tree:-HEAD}" &&
    run gcloud compute tpus tpu-vm scp "$scratch/ddpm.tar.gz" "$name:ddpm.tar.gz" --worker=all \
      "${place[@]}"
}

setup() {
  local fetch='mkdir ddpm && tar -xzf ddpm.tar.gz -C ddpm'
  if [[ $git_url ]]; then
    fetch=$(quote git clone --quiet --depth 1 ${git_ref:+--branch "$git_ref"} -- "$git_url" ddpm)
  else
    send_checkout || return
  fi
  on all "rm -rf ddpm && $fetch && ddpm/launch/tpu_worker.sh setup"
}

start() { on all "$(quote ddpm/launch/tpu_worker.sh start "${command[@]}")"; }

# What the queue says of the TPU: ACTIVE, SUSPENDED …, ABSENT, or UNKNOWN when gcloud fails.
state_of_tpu() {
  local said complaint=$scratch/complaint
  if said=$(queue describe '--format=value(state.state)' 2>"$complaint"); then
    echo "$said"
  elif grep -q NOT_FOUND "$complaint"; then
    echo ABSENT
  else
    cat "$complaint" >&2
    echo UNKNOWN
  fi
}

# From whatever state the TPU is found in to a finished run, so that this may itself be ended and
# run again at any time.
keep() {
  local seen='' now training started='' troubles=0
  while true; do
    now=$(state_of_tpu)
    if [[ $now != "$seen" ]]; then say "$name is $now"; fi
    seen=$now
    training=''
    case $now in
      ABSENT) create || training=unreachable ;;
      SUSPENDED | FAILED)
        # What was preempted never comes back by itself, but holds its name.
        { queue delete --force --quiet && create; } || training=unreachable ;;
      ACTIVE)
        training=$(on 0 'test ! -d ddpm/launch || ddpm/launch/tpu_worker.sh state') ||
          training=unreachable
        case $started$training in
          *running) started=1 troubles=0 ;;
          *unreachable) ;;
          1finished)
            say "finished; $name still costs: $me delete $name"
            return 0 ;;
          1failed*)
            say "the training $training; see: $me logs $name"
            return 1 ;;
          *)
            if setup && start; then
              started=1
              say "started on $name"
            else
              training=unreachable
            fi ;;
        esac ;;
    esac
    # Just made, just going, or gcloud is ill: the next look will say which.
    if [[ $training == unreachable || $now == UNKNOWN ]]; then
      troubles=$((troubles + 1))
      ((troubles < 10)) || { say "$name can't be reached; gave up"; return 1; }
    fi
    sleep "$poll"
  done
}

if [[ $action == create || $keep ]]; then
  [[ $type ]] || die "$action needs --type, as in --type v6e-8"
  if [[ ! $runtime ]]; then runtime=$(runtime_of "$type"); fi
fi
scratch=/tmp/ddpm-launch
if [[ ! $dry_run ]]; then
  scratch=$(mktemp -d)
  trap 'rm -rf -- "$scratch"' EXIT
fi

# shellcheck disable=SC2016  # The workers expand it.
each='echo "$(hostname): $(ddpm/launch/tpu_worker.sh state)"'
case $action in
  create) create ;;
  setup) setup ;;
  train)
    if [[ ! $keep ]]; then
      start
    elif [[ " ${command[*]}" != *[\ =]gs://* ]]; then
      die '--keep needs a --workdir gs://…: what lies on the TPU is lost when it is taken away'
    elif [[ $dry_run ]]; then
      queue describe '--format=value(state.state)'
      create
      setup
      start
    else
      keep
    fi ;;
  logs) on "$worker" "tail -n $lines ${follow:+-F }ddpm.log" ;;
  status)
    if [[ $dry_run ]]; then
      queue describe '--format=value(state.state)'
      on all "$each"
    else
      now=$(state_of_tpu)
      echo "$name: $now"
      case $now in
        UNKNOWN) exit 1 ;;
        ACTIVE) on all "$each" ;;
        SUSPENDED) say 'it was preempted; train --keep makes it again and goes on' ;;
      esac
    fi ;;
  stop) on all 'ddpm/launch/tpu_worker.sh stop' ;;
  delete) queue delete --force --quiet ;;
esac
