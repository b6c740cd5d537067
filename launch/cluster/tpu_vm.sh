#!/usr/bin/env bash
# A program on a TPU VM, started on it, from the checkout:
#
#   gcloud compute tpus tpu-vm create NAME --zone=ZONE --accelerator-type=v5litepod-8 --version=v2-alpha-tpuv5-lite
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE
#   launch/cluster/tpu_vm.sh -m launch.run --config=configs/mnist_mlp.py --workdir=$HOME/runs/mnist
#
# What to expect: the first call makes .venv and installs (minutes), prints the devices that JAX finds (8 of the
# example) and starts; later calls start at once. Start it inside tmux: with the terminal the program ends. The same
# command resumes; on a preemptible VM the workdir has to be on a disk that stays. On a VM that is one of several of a
# slice, all of them have to run it: tpu_pod.sh does that.
#
# What to change: PYTHON, an interpreter of Python 3.11 or newer to make .venv with (python3; where that is older:
# sudo apt-get install python3.11 python3.11-venv, and PYTHON=python3.11). Delete the VM when you are done: it costs as
# much idle.
set -euo pipefail

if (($# == 0)); then
  echo "usage: ${0##*/} PYTHON-ARGUMENTS..." >&2
  exit 2
fi
cd "$(dirname "$0")/../.."
if ! [[ -e .venv/tpu ]]; then
  make .venv/installed PYTHON="${PYTHON:-python3}"
  # The extra of the JAX that is installed, and no other JAX.
  version=$(.venv/bin/python -c 'import jax; print(jax.__version__)')
  .venv/bin/python -m pip install --quiet "jax[tpu]==$version"
  touch .venv/tpu
fi
export JAX_PLATFORMS=${JAX_PLATFORMS:-tpu,cpu}
exec .venv/bin/python "$@"
