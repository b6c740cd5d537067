#!/usr/bin/env bash
# A program on several machines that can be reached by ssh, one process each, which drives all GPUs of its machine:
#
#   launch/cluster/ssh.sh node1,node2,me@node3 -m launch.run --config=configs/mnist_mlp.py --workdir=/shared/runs/mnist
#
# What to expect: the first machine's process has the terminal; the others log to WORKDIR/logs/process-<i>.log. Where one
# fails, or its connection does, it is named, the others are ended, and its exit code is passed on (255: of ssh). Ctrl-C
# ends all. The same command resumes, on any number of machines. Start it inside tmux: with the terminal the job ends.
#
# What to change: the machines need the same checkout and environment at the path from where this is started, a
# workdir on a file system that all of them share, and keys that need no password. PYTHON is the interpreter
# (.venv/bin/python), PORT one that is free on the first machine (8476), COORDINATOR its name for the others where that
# is not the name for ssh, FORWARD names of variables to pass on (those of JAX and XLA).
#
# Needs bash 4.3 or newer here, and bash there.
set -u

if [[ -z ${1-} ]] || (($# < 2)); then
  echo "usage: ${0##*/} HOST,HOST,... PYTHON-ARGUMENTS..." >&2
  exit 2
fi
IFS=, read -ra hosts <<<"$1"
shift
first=${hosts[0]#*@}
job=(--coordinator_address="${COORDINATOR:-$first}:${PORT:-8476}" --num_processes="${#hosts[@]}")
passed=()
for name in ${FORWARD-${!JAX_@} ${!XLA_@} ${!JAXWEIGHTS_@}}; do
  passed+=("$name=${!name}")
done

# shellcheck source=launch/cluster/supervise.sh
. "$(dirname "$0")/supervise.sh"
for number in "${!hosts[@]}"; do
  command=(env ${passed[@]+"${passed[@]}"} "${PYTHON:-.venv/bin/python}" "$@" "${job[@]}" --process_id="$number")
  # With a terminal (-tt) the far process ends with its connection.
  start ssh -tt -o BatchMode=yes -o ServerAliveInterval=10 "${hosts[number]}" \
    "cd $(printf %q "$PWD") && exec $(printf '%q ' "${command[@]}")"
done
supervise
