# shellcheck shell=bash
# What the launch scripts share; sourced, never run.

# Before 4.4, an empty array is an unset variable, and `set -u` ends the script in mid-air.
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "${0##*/}: needs bash 4.4 or newer; this is $BASH_VERSION" >&2
  exit 2
fi

me=${0##*/}
dry_run=${dry_run:-}

say() { printf '%s: %s\n' "$me" "$*" >&2; }

# A mistake of the user's: one line, and the exit code that no supervisor restarts after.
die() {
  say "$*"
  exit 2
}

# The usage is the comment at the head of the script, so that the two cannot differ.
usage() {
  sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p;}' "$0"
  exit 0
}

# quote WORD...: the words as one line that any POSIX shell reads back as the same words. printf %q
# and @Q write $'…' for newlines, which only bash reads; a worker's login shell may be another.
quote() {
  local word line='' close="'\\''"
  for word in "$@"; do
    # NAME=VALUE is quoted too: as the first word it would be an assignment.
    if [[ ! $word =~ ^(--[A-Za-z0-9_.-]+=)?[A-Za-z0-9_./:@%+,-]+$ ]]; then
      word="'${word//\'/"$close"}'"
    fi
    line+="${line:+ }$word"
  done
  printf '%s' "$line"
}

# run COMMAND...: runs it, or prints it under --dry-run.
run() {
  if [[ $dry_run ]]; then
    printf '%s\n' "$(quote "$@")"
  else
    "$@"
  fi
}

# need OPTION COUNT: for `--option value`, where the value may have been forgotten.
need() { (($2 >= 2)) || die "$1 needs a value; see $me --help"; }

# whole OPTION VALUE: refuses what is not a whole number.
whole() { [[ $2 =~ ^[0-9]+$ ]] || die "$1 $2: give a whole number"; }
