#!/usr/bin/env bash
# Trains on a Kubernetes cluster as a JobSet, made from launch/kubernetes/tpu.yaml or gpu.yaml.
#
# usage: launch/kubernetes.sh ACTION NAME [OPTIONS] [-- COMMAND [ARGUMENT...]]
#   launch/kubernetes.sh start run1 --on tpu --image IMAGE --accelerator tpu-v6e-slice \
#       --topology 4x4 --hosts 4 --chips 4 -- ddpm train configs/cifar10.py --workdir gs://BUCKET/c
#   launch/kubernetes.sh start run1 --on gpu --image IMAGE --accelerator nvidia-h100-80gb \
#       --hosts 2 --chips 8 -- ddpm train configs/cifar10.py --workdir gs://BUCKET/c
#   launch/kubernetes.sh logs | status | delete NAME
#
# options of start
#   --on tpu|gpu            the manifest to use
#   --image IMAGE           the image, built from launch/kubernetes/Dockerfile
#   --hosts N, --chips N    number of pods, and of chips or GPUs per pod (the manifest's)
#   --accelerator NAME      the node pool's gke-tpu-accelerator or gke-accelerator (the manifest's)
#   --topology AxB          tpu: the slice's shape (the manifest's)
#   --spot                  run on spot nodes
#   --service-account NAME  the pods' account, which may write the bucket (default)
# of all: --namespace NAME, --context NAME, --dry-run (print the commands instead of running them)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

case ${1:-} in
  start | logs | status | delete) action=$1 ;;
  -h | --help) usage ;;
  '') die "needs an action; see $me --help" ;;
  *) die "there is no action $1; see $me --help" ;;
esac
shift

name='' on='' spot='' location=() command=()
declare -A set=()
while (($#)); do
  case $1 in
    --on) need "$1" $#; on=$2; shift 2 ;;
    --image | --accelerator | --topology | --service-account) need "$1" $#; set[${1#--}]=$2; shift 2 ;;
    --hosts | --chips) need "$1" $#; whole "$1" "$2"; set[${1#--}]=$2; shift 2 ;;
    --spot) spot=1; shift ;;
    --namespace | --context) need "$1" $#; location+=("$1=$2"); shift 2 ;;
    --dry-run) dry_run=1; shift ;;
    -h | --help) usage ;;
    --) shift; command=("$@"); break ;;
    -*) die "unknown option $1; see $me --help" ;;
    *) [[ ! $name ]] || die "$1: a second name; put the command after --"; name=$1; shift ;;
  esac
done
# JobSet appends text such as -train-0-12, and a DNS name has at most 63 letters.
[[ $name =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
  die "the name is '$name'; it must begin with a letter, have only a-z, 0-9 and -, and at most 40 of them"

# The changes as JSON, which quotes every word. In `args` Kubernetes expands $(NAME) and reads $$ as $.
changes() {
  python3 - "$on" "$name" "${set[hosts]:-}" "${set[chips]:-}" "${set[accelerator]:-}" \
    "${set[topology]:-}" "${set[image]}" "${set[service-account]:-}" "$spot" "${command[@]}" <<'END'
import json, sys
on, name, hosts, chips, accelerator, topology, image, account, spot, *words = sys.argv[1:]
job = "/spec/replicatedJobs/0/template/spec"
pod = f"{job}/template/spec"
label = pod + "/nodeSelector/cloud.google.com~1gke-"
resource = {"tpu": "google.com~1tpu", "gpu": "nvidia.com~1gpu"}[on]
args = [word.replace("$", "$$") for word in words]
if on == "gpu":
    args += ["--distributed.coordinator", "$(COORDINATOR):8476"]
    args += ["--distributed.num_processes", hosts, "--distributed.process_id", "$(PROCESS_ID)"]
values = {
    "/metadata/name": name,
    f"{pod}/containers/0/image": image,
    f"{pod}/containers/0/args": args,
    f"{pod}/serviceAccountName": account,
    f"{job}/parallelism": hosts and int(hosts),
    f"{job}/completions": hosts and int(hosts),
    f"{pod}/containers/0/resources/limits/{resource}": chips and int(chips),
    label + {"tpu": "tpu-accelerator", "gpu": "accelerator"}[on]: accelerator,
    label + "tpu-topology": topology,
    label + "spot": spot and "true",
}
print(json.dumps([{"op": "add", "path": at, "value": it} for at, it in values.items() if it]))
END
}

start() {
  local patch
  [[ $on == tpu || $on == gpu ]] || die "start needs --on tpu or --on gpu"
  [[ ${set[image]:-} ]] || die 'start needs --image IMAGE'
  ((${#command[@]})) || die "start needs -- COMMAND; see $me --help"
  [[ $on == tpu || ! ${set[topology]:-} ]] || die '--topology is for --on tpu'
  [[ $on == tpu || ${set[hosts]:-} ]] || set[hosts]=2
  patch=$(changes)
  # With --local, kubectl applies the changes without a cluster.
  local make=(kubectl patch --local --type=json "--filename=$here/kubernetes/$on.yaml"
    "--patch=$patch" --output=json)
  local send=(kubectl create --filename=- "${location[@]}")
  if [[ $dry_run ]]; then
    printf '%s | %s\n' "$(quote "${make[@]}")" "$(quote "${send[@]}")"
  else
    "${make[@]}" | "${send[@]}"
  fi
}

[[ $action == start ]] || ((${#command[@]} == 0)) || die "$action takes no command"
pods=--selector=jobset.sigs.k8s.io/jobset-name=$name
case $action in
  start) start ;;
  # Only process 0 prints.
  logs) run kubectl logs --follow --tail=100 \
    "$pods,batch.kubernetes.io/job-completion-index=0" "${location[@]}" ;;
  status)
    run kubectl get jobset "$name" "${location[@]}"
    run kubectl get pods "$pods" --output=wide "${location[@]}" ;;
  delete) run kubectl delete jobset "$name" "${location[@]}" ;;
esac
