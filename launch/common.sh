# shellcheck shell=bash
# Functions that the launch scripts share; they source this file.

# Before 4.4, an empty array counts as an unset variable, at which `set -u` ends the script.
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "${0##*/}: needs bash 4.4 or newer; this is $BASH_VERSION" >&2
  exit 2
fi

me=${0##*/}
dry_run=${dry_run:-}

say() { printf '%s: %s\n' "$me" "$*" >&2; }

# For a mistake of the user: prints one line and exits with 2, after which no supervisor restarts.
die() {
  say "$*"
  exit 2
}

# Prints the comment at the head of the script as its usage.
usage() {
  sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p;}' "$0"
  exit 0
}

# quote WORD...: prints the words as one line that any POSIX shell reads back as the same words.
# printf %q and @Q write newlines as $'…', which only bash reads; workers may have other shells.
quote() {
  local word line='' close="'\\''"
  for word in "$@"; do
    # NAME=VALUE is quoted too, because as the first word it would be an assignment.
    if [[ ! $word =~ ^(--[A-Za-z0-9_.-]+=)?[A-Za-z0-9_./:@%+,-]+$ ]]; then
      word="'${word//\'/"$close"}'"
    fi
    line+="${line:+ }$word"
  done
  printf '%s' "$line"
}

# run COMMAND...: runs the command, or prints it with --dry-run.
run() {
  if [[ $dry_run ]]; then
    printf '%s\n' "$(quote "$@")"
  else
    "$@"
  fi
}

# need OPTION COUNT: ends with a message if `--option value` has no value.
need() { (($2 >= 2)) || die "$1 needs a value; see $me --help"; }

# whole OPTION VALUE: ends with a message if the value is not a whole number.
whole() { [[ $2 =~ ^[0-9]+$ ]] || die "$1 $2: give a whole number"; }

# pass_signals_on: from now on a signal goes to the command that `attend` runs, once, and `stopping`
# has the exit code for it.
pass_signals_on() {
  child='' stopping='' interrupted=''
  trap '_pass_on TERM 143' TERM
  trap '_pass_on INT 130' INT
  trap '_pass_on HUP 129' HUP
  trap '_pass_on USR1 138' USR1
  trap '_pass_on USR2 140' USR2
  # Job control gives the command its own process group. Otherwise a Ctrl-C would reach it twice,
  # from the terminal and from here, and the second one would end it without a save.
  set -m
}

# shellcheck disable=SC2329  # The traps call it.
_pass_on() { # SIGNAL CODE
  stopping=$2 interrupted=1
  if [[ $child ]]; then kill -s "$1" "$child" 2>/dev/null || true; fi
}

# attend COMMAND...: runs it, and puts its exit code into `code`.
# shellcheck disable=SC2034  # Scripts read it.
attend() {
  "$@" </dev/null &
  child=$!
  # The signal may have come before the child existed.
  if [[ $stopping ]]; then kill -s TERM "$child" 2>/dev/null || true; fi
  interrupted=1
  while [[ $interrupted ]]; do # A trap makes `wait` return early with another code.
    interrupted='' code=0
    wait "$child" || code=$?
  done
  child=''
}
