#!/usr/bin/env bash
# Trains one run on machines that may be taken away: starts torchrun again until the run has finished.
#
#   PROCESSES=8 examples/cluster/spot.sh --dataset imagenet_lt --data-root /data/imagenet --output /shared/runs/imagenet
#
# The arguments are those of `fastlift train`. --output must outlive the machine (a network disk). Let every new machine start
# the same command at boot, as a service, so that it gets SIGTERM when the provider shuts the machine down.
#
# Edit, in the environment:
#   PROCESSES   processes of this machine (default: its GPUs)
#   NODES       machines, or a range such as 1:4 that may change while the run goes on (default: 1)
#   MEET        HOST:PORT where several machines meet; HOST is one of them, the one to keep (default: this machine alone)
#   WAIT, MOST  seconds before the first new attempt, doubled after each up to 300 (5); failures in a row before it gives up (8)
#
# On interruption
#   SIGTERM            torchrun gets it, all processes save and leave within a step, and the loop ends with 143.
#   a killed process   torchrun starts all processes again from the last checkpoint, up to --max-restarts times, here 3; after
#                      that the loop does, and waits longer each time. Two minutes of training count as no failure.
#   a user's mistake   a wrong flag or folder is the same in every attempt: the loop ends with 2.
# A run that has finished ends with 0, also when the loop is started again.
set -uo pipefail

export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # otherwise a machine that joins later would wait for an address for ever
report=$(mktemp)
trap 'rm -f "$report"' EXIT
stopping='' job='' failures=0 pause=${WAIT:-5}
# shellcheck disable=SC2329 # called by trap
stop() {
  [[ -z $stopping ]] || return # a shutdown may signal more than once; torchrun gets one
  stopping=1
  [[ -z $job ]] || kill -TERM "$job"
}
trap stop TERM INT HUP

# Waits until a child has ended: `code`. It gets a signal that came before its number was known; a signal ends `wait` early.
await() {
  job=$1
  [[ -z $stopping ]] || kill -TERM "$job"
  wait "$job"
  code=$?
  while kill -0 "$job" 2>/dev/null; do
    wait "$job"
    code=$?
  done
  job=
}

while [[ -z $stopping ]]; do
  began=$SECONDS
  exec {messages}> >(tee "$report" >&2)
  reader=$!
  torchrun --nnodes "${NODES:-1}" --nproc-per-node "${PROCESSES:-gpu}" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "${MEET:-localhost:0}" --rdzv-id fastlift \
    -m fastlift train "$@" --resume auto 2>&"$messages" &
  torchrun=$!
  exec {messages}>&-
  await "$torchrun"
  wait "$reader" # until the last process has closed its messages: the folder is free then
  ((code != 0)) || exit 0
  [[ -z $stopping ]] || break
  # torchrun ends with 1 whatever its processes ended with; its report has their exit codes.
  ((code != 2)) && ! grep -Eq '^ *exitcode *: 2 ' "$report" || exit 2
  ((SECONDS - began < 120)) || failures=0 pause=${WAIT:-5}
  if ((++failures >= ${MOST:-8})); then
    echo "spot.sh: $failures failures in a row, the last with $code: giving up" >&2
    exit 1
  fi
  echo "spot.sh: torchrun ended with $code; attempt $((failures + 1)) in $pause s" >&2
  sleep "$pause" &
  await "$!"
  pause=$((pause * 2 < 300 ? pause * 2 : 300))
done
exit 143
