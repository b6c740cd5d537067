# Sourced by local.sh and ssh.sh: the processes of a job, which end together.
# shellcheck shell=bash

pids=()
words=$(mktemp -d)  # what processes other than the first say before they have a log of their own

# start COMMAND...: starts the next process of the job. The first one has the terminal.
start() {
  local number=${#pids[@]}
  if ((number == 0)); then
    "$@" </dev/null &
  else
    "$@" </dev/null >"$words/$number" 2>&1 &
  fi
  pids+=("$!")
}

# stop: ends what is left, at once what does not end within GRACE seconds.
stop() {
  trap '' INT TERM HUP
  kill -TERM "${pids[@]}" 2>/dev/null
  for ((tenth = 0; tenth < 10 * ${GRACE:-10}; tenth++)); do
    kill -0 "${pids[@]}" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "${pids[@]}" 2>/dev/null
  wait
  rm -rf "$words"
}

# supervise: waits for all processes. Where one fails, says which, ends the others and passes its exit code on. What ends
# within a moment is told together, since an error of one may be the others' end; an exit code is then that of a process
# that a signal ended, other than ABRT, by which JAX ends a process whose job is over.
supervise() {
  local left=("${!pids[@]}") number status result=0
  while ((${#left[@]} && result == 0)); do
    sleep 0.2
    for number in "${left[@]}"; do
      kill -0 "${pids[number]}" 2>/dev/null && continue
      wait "${pids[number]}"
      status=$?
      unset "left[$number]"
      ((status == 0)) && continue
      [[ -s $words/$number ]] && cat "$words/$number" >&2
      local cause=
      ((status > 128)) && cause=" (signal $(kill -l "$status" 2>/dev/null))"
      echo "${0##*/}: process $number of ${#pids[@]} ended with status $status$cause" >&2
      ((result == 0 || (status > 128 && status != 134))) && result=$status
    done
  done
  exit "$result"
}

trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
