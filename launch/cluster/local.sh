#!/usr/bin/env bash
# A program in several processes of this machine, which share its CPU cores:
#
#   launch/cluster/local.sh 2 -m launch.run --config=configs/digits.py --workdir=runs/digits
#
# What to expect: the first process has the terminal; the others log to WORKDIR/logs/process-<i>.log. The exit code is
# that of the process that failed first, which is named; the others are then ended, and after Ctrl-C or SIGTERM all are.
# The same command resumes, with any number of processes.
#
# What to change: PYTHON, the interpreter (.venv/bin/python, as `make` makes it); DEVICES, the emulated devices of a
# process (cores / processes); GRACE, the seconds that processes have to end by themselves (10). With one process no job
# is made. GPUs: one process drives all GPUs of a machine, so no script is needed.
#
# Needs bash 4.3 or newer.
set -u

if ! [[ ${1-} =~ ^[1-9][0-9]*$ ]] || (($# < 2)); then
  echo "usage: ${0##*/} PROCESSES PYTHON-ARGUMENTS..." >&2
  exit 2
fi
count=$1
shift
python=${PYTHON:-.venv/bin/python}
cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
share=${DEVICES:-$((cores / count > 0 ? cores / count : 1))}
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu} JAX_NUM_CPU_DEVICES=$share JAXWEIGHTS_HOST_DEVICES=$share

if ((count == 1)); then
  exec "$python" "$@"
fi
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])') || exit

# shellcheck source=launch/cluster/supervise.sh
. "$(dirname "$0")/supervise.sh"
for ((number = 0; number < count; number++)); do
  start "$python" "$@" --coordinator_address="127.0.0.1:$port" --num_processes="$count" --process_id="$number"
done
supervise
