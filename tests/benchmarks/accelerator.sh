#!/usr/bin/env bash
# What one accelerator has to tell, in so many minutes. ACCELERATOR.md says what each part is for.
#
# usage: tests/benchmarks/accelerator.sh OUT [30|15|short]
#   OUT       a folder for logs, figures, pictures and traces; runs stay in a temporary folder
#   30, 15    minutes that the machine is there (30)
#   short     the same commands on tiny networks: a CPU's rehearsal, in a few minutes
#
# PEERS names a virtual environment that has torch, diffusers and numpy; without it the comparison
# with PyTorch is left out. Each part has its own limit, and the next one runs whatever became of
# it: OUT/summary.txt has a line for each.
set -u

case ${1:-} in
  '' | -h | --help) sed -n '2,/^set -u/{/^set -u/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
esac
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd) minutes=${2:-30}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
runs=$(mktemp -d)
trap 'rm -rf "$runs"' EXIT
cd "$here" || exit 2

half=(--model.dtype bfloat16) later=()
large=configs/cifar10.py small=configs/mnist.py drawn=256 steps=100
case $minutes in
  # Seconds: bench, PyTorch, cifar10, cifar10 resumed, mnist, each evaluation.
  30) limits=(240 300 420 150 240 120) ;;
  15) limits=(150 0 270 90 120 60) ;;
  short)
    limits=(300 0 300 300 300 300) large=configs/digits.py small=configs/digits.py drawn=16 steps=4
    half+=(--model.channels 8 --model.multipliers 1 --model.blocks 1 --model.attention
      --train.batch_size 16 --train.steps 12 --train.save_every 4 --train.preview_every None
      --train.log_every 2 --train.steps_per_dispatch 1 --sample.num 16 --diffusion.timesteps 20)
    half+=(--sample.steps 4) later=(--train.steps 24)
    ;;
  *) echo "accelerator.sh: $minutes: give 30, 15 or short" >&2; exit 2 ;;
esac

# part NAME SECONDS COMMAND...: runs a command with a limit, its output in OUT/NAME.*; training that
# is told to stop saves first.
part() {
  local name=$1 limit=$2 begun=$SECONDS code
  shift 2
  if ((limit == 0)); then
    echo "$name: left out" | tee -a "$out/summary.txt"
    return
  fi
  timeout --signal TERM --kill-after 60 "$limit" "$@" >"$out/$name.out" 2>"$out/$name.err"
  code=$?
  echo "$name: exit $code after $((SECONDS - begun)) s: $*" | tee -a "$out/summary.txt"
}

# kept RUN NAME: what a run leaves behind, without its arrays.
kept() {
  mkdir -p "$out/$2"
  cp -r "$1"/{metrics.jsonl,events.jsonl,config.json,profile,samples.png,loss.png} "$out/$2/" 2>/dev/null
}

: >"$out/summary.txt"
part card 180 python -c 'import jax, jaxlib; d = jax.devices()[0]
print(d.device_kind, len(jax.devices()), jax.__version__, jaxlib.__version__, d.memory_stats())'
nvidia-smi >"$out/nvidia-smi.txt" 2>&1
part bench "${limits[0]}" ddpm bench "$large" "${half[@]}" --json
if [[ ${PEERS:-} ]]; then
  part diffusers "${limits[1]}" python tests/benchmarks/unet_diffusers.py --network cifar10 \
    --device cuda --dtype bfloat16 --compile --batch 128 --venv "$PEERS"
else
  part diffusers 0
fi
part large "${limits[2]}" ddpm train "$large" --workdir "$runs/large" "${half[@]}"
part large_resumed "${limits[3]}" ddpm train "$large" --workdir "$runs/large" "${half[@]}" \
  "${later[@]}" --profile 10
kept "$runs/large" large_run
part small "${limits[4]}" ddpm train "$small" --workdir "$runs/small" "${half[@]}"
kept "$runs/small" small_run
for name in large small; do
  sampler=(--sampler ddim --steps "$steps")
  part "${name}_sampled" "${limits[5]}" ddpm sample "$runs/$name" --num "$drawn" "${sampler[@]}" \
    --output "$out/$name.png"
  part "${name}_evaluated" "${limits[5]}" ddpm evaluate "$runs/$name" --num "$drawn" --steps "$steps" \
    --output "$out/$name.json"
done
cat "$out/summary.txt"
