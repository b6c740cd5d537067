#!/usr/bin/env bash
# A program on a slice of a TPU pod, one process per worker, started from a machine with gcloud and a checkout:
#
#   gcloud compute tpus tpu-vm create NAME --zone=ZONE --accelerator-type=v5litepod-64 --version=v2-alpha-tpuv5-lite
#   launch/cluster/tpu_pod.sh NAME ZONE -m launch.run --config=configs/mnist_mlp.py --workdir=/mnt/shared/runs/mnist
#
# What to expect: the committed state of the checkout is copied to ~/jaxweights of every worker (16 of the example),
# each runs tpu_vm.sh there, which installs at the first call, and JAX finds the other workers by itself. gcloud shows
# the output of all; only the first process prints, the others log to WORKDIR/logs/process-<i>.log. Where a process
# fails, the runtime ends the others within 30 s. The same command resumes, on a slice of any size.
#
# What to change: all workers need a workdir that they share, such as a Filestore volume mounted on every one of them
# (MOUNT=10.0.0.2:/share mounts it at /mnt/shared). PYTHON as for tpu_vm.sh. Ctrl-C ends the connections, not the
# processes: STOP=1 launch/cluster/tpu_pod.sh NAME ZONE ends those.
set -euo pipefail

if (($# < 3)) && [[ -z ${STOP-} ]]; then
  echo "usage: ${0##*/} NAME ZONE PYTHON-ARGUMENTS..." >&2
  exit 2
fi
name=$1 zone=$2
shift 2
workers() { gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"; }

if [[ -n ${STOP-} ]]; then
  workers "kill -TERM \$(cat jaxweights/.pid)"
  exit
fi
cd "$(dirname "$0")/../.."
archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz -o "$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$name:jaxweights.tar.gz" --zone="$zone" --worker=all
if [[ -n ${MOUNT-} ]]; then
  workers "sudo apt-get -qq install nfs-common && sudo mkdir -p /mnt/shared && { mountpoint -q /mnt/shared ||
    sudo mount $(printf %q "$MOUNT") /mnt/shared; } && sudo chmod a+rwx /mnt/shared"
fi
workers "mkdir -p jaxweights && tar -xzf jaxweights.tar.gz -C jaxweights && cd jaxweights && echo \$\$ >.pid &&
  PYTHON=$(printf %q "${PYTHON:-python3}") exec launch/cluster/tpu_vm.sh $(printf '%q ' "$@")"
