#!/usr/bin/env bash
# Runs on each worker of a TPU VM, in the code that launch/tpu_vm.sh installed there.
#
# usage: tpu_worker.sh setup | start COMMAND [ARGUMENT...] | stop | state
#
# setup creates the Python environment ~/ddpm-env. start runs the command under launch/supervise.sh
# as the systemd service `ddpm`, which survives the ssh session and a reboot; its output is appended
# to ~/ddpm.log. state prints one of: running, finished, stopped, none, or failed CODE.
set -euo pipefail

code=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
. "$code/launch/common.sh"
venv=$HOME/ddpm-env
unit=/etc/systemd/system/ddpm.service

# Whether the package supports this Python. Images for TPUs have 3.10, which is too old.
new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Without Debian's python3-venv, `venv` fails and leaves an environment without pip.
ready() { new_enough "$venv/bin/python" && "$venv/bin/python" -c 'import pip' 2>/dev/null; }

setup() {
  local python
  if ! ready; then
    for python in python3.14 python3.13 python3.12 python3.11 python3; do
      if new_enough "$python" && "$python" -m venv --clear "$venv" 2>/dev/null; then break; fi
    done
  fi
  if ! ready; then
    python3 -m pip install --quiet --user --upgrade uv
    python3 -m uv venv --quiet --clear --seed --python 3.12 "$venv"
  fi
  "$venv/bin/python" -m pip install --quiet --upgrade --editable "${code}[tpu]"
}

start() {
  (($#)) || die 'start needs a command'
  # The command goes into a script, because a systemd unit has other rules for %, $ and quotes.
  {
    echo '#!/usr/bin/env bash'
    quote cd "$code"; echo
    quote export "PATH=$venv/bin:$PATH"; echo
    quote exec launch/supervise.sh -- "$@"; echo
  } >"$HOME/ddpm-run.sh"
  # systemd sends SIGTERM only to the supervisor, which passes it on; a save may take minutes.
  cat >"$HOME/ddpm.service" <<END
[Unit]
Description=ddpm training
Wants=network-online.target
After=network-online.target

[Service]
User=$(id -un)
WorkingDirectory=$HOME
ExecStart=/bin/bash $HOME/ddpm-run.sh
StandardOutput=append:$HOME/ddpm.log
StandardError=append:$HOME/ddpm.log
SuccessExitStatus=130 143
KillMode=mixed
TimeoutStopSec=300

[Install]
WantedBy=multi-user.target
END
  sudo install -m 644 "$HOME/ddpm.service" "$unit"
  sudo systemctl daemon-reload
  sudo systemctl enable --quiet ddpm.service
  # restart and not start: gcloud repeats a command after a broken connection, and a second `train`
  # must run the new command.
  sudo systemctl restart ddpm.service
}

state() {
  local key value active='' load='' code=''
  while IFS='=' read -r key value; do
    case $key in
      LoadState) load=$value ;;
      ActiveState) active=$value ;;
      ExecMainStatus) code=$value ;;
    esac
  done < <(systemctl show --property=LoadState,ActiveState,ExecMainStatus ddpm.service)
  case $load/$active/$code in
    not-found/*) echo none ;;
    */active/* | */activating/* | */deactivating/* | */reloading/*) echo running ;;
    */0) echo finished ;;
    */130 | */143) echo stopped ;;
    *) echo "failed $code" ;;
  esac
}

case ${1:-} in
  setup | start | state) "$@" ;;
  stop) sudo systemctl disable --quiet --now ddpm.service ;;
  -h | --help) usage ;;
  *) die "setup, start, stop or state; see $me --help" ;;
esac
