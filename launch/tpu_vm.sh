#!/usr/bin/env bash
# Trains on Cloud TPU VMs, one host or a slice of several, through gcloud's queued resources.
#
# usage: launch/tpu_vm.sh ACTION NAME [OPTIONS] [-- COMMAND [ARGUMENT...]]
#   launch/tpu_vm.sh create tpu1 --zone us-east5-b --type v6e-8 --spot
#   launch/tpu_vm.sh setup  tpu1 --zone us-east5-b
#   launch/tpu_vm.sh train  tpu1 --zone us-east5-b -- \
#       ddpm train configs/cifar10.py --workdir gs://BUCKET/cifar10
#   launch/tpu_vm.sh train  tpu1 --zone us-east5-b --type v6e-8 --spot --keep -- ddpm train …
#
# actions
#   create   request the TPU; the request waits in Google's queue until a TPU is free
#   setup    install this checkout and its Python environment on all workers
#   train    start the command on all workers, under a supervisor that restarts it after a crash
#            or a reboot; with --keep, also run create and setup if needed, and repeat everything
#            after each preemption until the run is finished
#   logs     follow the output of worker 0
#   status   print the state of the TPU, and of the training on each worker
#   stop     save and end the training; the TPU remains and still costs money
#   delete   give the TPU back
#
# options
#   --zone ZONE, --project ID   location (default: gcloud's settings)
#   --type TYPE                 create: v4-8, v5litepod-16, v5p-8, v6e-8 …
#   --runtime VERSION           create: the image (default: the one for the type)
#   --spot                      create: cheaper, but Google may preempt it at any time
#   --create-flag FLAG          create: another flag for gcloud, such as --service-account=…; repeat
#   --git URL, --ref NAME       setup: clone this instead of sending the checkout (which includes
#                               uncommitted changes, but no untracked files)
#   --keep                      train: see above
#   --poll S                    train --keep: seconds between checks (60)
#   --worker N                  logs: another worker; --lines N: number of lines to begin with (100);
#                               --no-follow: print only these
#   --dry-run                   print the commands instead of running them
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
follow=1 location=() create_flags=() command=()
while (($#)); do
  case $1 in
    --zone | --project) need "$1" $#; location+=("$1=$2"); shift 2 ;;
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
  die "the TPU's name is '$name'; it must begin with a letter and contain only a-z, 0-9 and -"
[[ ! $git_ref || $git_url ]] || die '--ref needs --git URL'
if [[ $action == train ]]; then
  ((${#command[@]})) || die "train needs -- COMMAND; see $me --help"
elif ((${#command[@]})); then
  die "$action takes no command"
fi

queue() { # VERB FLAG...
  run gcloud compute tpus queued-resources "$1" "$name" "${@:2}" "${location[@]}"
}

# on WORKERS COMMAND_LINE: runs the line on workers. gcloud passes it unchanged to their login shell,
# so quote its words once, with `quote`.
on() {
  run gcloud compute tpus tpu-vm ssh "$name" "--worker=$1" "--command=$2" "${location[@]}"
}

# The image for each generation, from Google's table of TPU software versions.
runtime_of() {
  case $1 in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v[234]-*) echo tpu-ubuntu2204-base ;;
    *) die "the image for --type $1 is not known; give --runtime VERSION" ;;
  esac
}

create() {
  queue create "--node-id=$name" "--accelerator-type=$type" "--runtime-version=$runtime" \
    ${spot:+--spot} "${create_flags[@]}"
}

# The next two functions use && because set -e has no effect in a function that `if` calls.
send_checkout() {
  local tree=HEAD
  if [[ ! $dry_run ]]; then
    # Makes a commit of the working tree; prints nothing if the tree equals HEAD.
    tree=$(git -C "$here" stash create) || die "${here%/*} is not a git checkout; give --git URL"
  fi
  run git -C "${here%/*}" archive --format=tar.gz "--output=$scratch/ddpm.tar.gz" "${tree:-HEAD}" &&
    run gcloud compute tpus tpu-vm scp "$scratch/ddpm.tar.gz" "$name:ddpm.tar.gz" --worker=all \
      "${location[@]}"
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

# Prints the TPU's state: ACTIVE, SUSPENDED …, ABSENT, or UNKNOWN if gcloud fails.
state_of_tpu() {
  local state errors=$scratch/errors
  if state=$(queue describe '--format=value(state.state)' 2>"$errors"); then
    echo "$state"
  elif grep -q NOT_FOUND "$errors"; then
    echo ABSENT
  else
    cat "$errors" >&2
    echo UNKNOWN
  fi
}

# Brings the TPU from any state to a finished run, so that this script can be ended and run again at
# any time.
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
        # A preempted TPU never comes back by itself, but it still holds its name.
        { queue delete --force --quiet && create; } || training=unreachable ;;
      ACTIVE)
        training=$(on 0 'test ! -d ddpm/launch || ddpm/launch/tpu_worker.sh state') ||
          training=unreachable
        case $started$training in
          *running) started=1 troubles=0 ;;
          *unreachable) ;;
          1finished)
            say "finished; $name still costs money; run: $me delete $name"
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
    # A new TPU, one that is being taken away, or a failure of gcloud: the next check will tell.
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
      die '--keep needs --workdir gs://…, because a preempted TPU loses its files'
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
        SUSPENDED) say 'it was preempted; train --keep creates it again and continues' ;;
      esac
    fi ;;
  stop) on all 'ddpm/launch/tpu_worker.sh stop' ;;
  delete) queue delete --force --quiet ;;
esac
