#!/usr/bin/env bash
# A first look at an accelerator: is everything installed, does the fast part of the suite pass, and how fast is it?
#
#   launch/accelerator_check.sh runs/accelerator              # all parts
#   launch/accelerator_check.sh runs/accelerator zoo recipe   # these
#
# What to expect: eight minutes at most on a machine with one data-centre GPU, a line as each part ends, and in the
# folder record.json, tables.md and log.txt, written anew after every part. A part that fails, or is not done when its
# time is up, costs itself alone; the same command again runs what has not ended well, benchmarks case by case.
#
# What to change: PYTHON, the interpreter (.venv/bin/python where it is there, or else python3); JAX, what is installed
# where JAX is not (jax[cuda12]); WHEELS, a folder of wheels to use beside what there is, for machines without network;
# DATA, a folder with MNIST as idx files, without which `recipe` and `gpt` are left out; WORK, where workdirs and logs
# go (work/ in the folder); TOTAL, the seconds of all parts together (470); JOBS, test processes side by side (12);
# MINIATURE=1, for sizes with which a CPU comes through in minutes.
set -u

if (($# < 1)); then
  echo "usage: ${0##*/} FOLDER [PART...]" >&2
  exit 2
fi
folder=$(mkdir -p "$1" && cd "$1" && pwd) || exit
shift
wanted=("$@")
cd "$(dirname "$0")/.." || exit
work=${WORK:-$folder/work}
mkdir -p "$work" && work=$(cd "$work" && pwd) || exit
data=${DATA:+$(cd "$DATA" && pwd)}
wheels=${WHEELS:+$(cd "$WHEELS" && pwd)}
total=${TOTAL:-470}
if [[ -z ${PYTHON-} ]]; then
  [[ -x .venv/bin/python ]] && PYTHON=.venv/bin/python || PYTHON=python3
fi
export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=2
# Test processes and PyTorch share the device.
export XLA_PYTHON_CLIENT_PREALLOCATE=${XLA_PYTHON_CLIENT_PREALLOCATE:-false}

# What runs on devices, and takes no process of its own.
FAST=(tests/test_{zoo,training,evaluate,evaluator,fields,gpt,hyperrep,pdiff,hyperdiffusion,partial,ppo}.py
  tests/test_{nets,convnet,convolution,conv_pool,spec,symmetry,diffusion,pdiff_networks,shuffle,augment,meshing}.py
  tests/test_audit_{distances,similarity,alignment}.py
  tests/test_{matching,shape_metrics,function,baselines,cartpole,gpt_reference,pdiff_reference}.py)

# part NAME SECONDS COMMAND...: runs a part in so many seconds at most, unless it is done or not wanted.
part() {
  local name=$1 limit=$2 begin=$SECONDS status end=(--signal=TERM)
  shift 2
  if ((${#wanted[@]})) && [[ " ${wanted[*]} " != *" $name "* ]]; then return; fi
  if [[ -e $work/$name.done ]]; then
    echo "$name: done before"
    return
  fi
  if ((limit > total - SECONDS)); then limit=$((total - SECONDS)); fi
  if ((limit < 2)); then
    echo "$name: no time is left"
    return
  fi
  # Upon which pytest, if it is told alone, says what has failed.
  if [[ $name == tests ]]; then end=(--signal=INT --foreground); fi
  timeout "${end[@]}" --kill-after=5 "$limit" "$@" >"$work/$name.log" 2>&1
  status=$?
  echo "$name: exit status $status after $((SECONDS - begin)) s, at $SECONDS s"
  if ((status)); then tail -n 3 "$work/$name.log" | cut -c 1-500; fi
  # Tests that fail are a result, too.
  if ((status == 0)) || [[ $name == tests && $status == 1 ]]; then touch "$work/$name.done"; fi
  echo "$name $status $((SECONDS - begin))" >>"$work/parts.txt"
  for log in "$work"/*.log; do printf '\n===== %s\n' "${log##*/}" && tail -c 200000 "$log"; done >"$folder/log.txt"
  rm -rf "${work:?}/$name"  # workdirs take tens of gigabytes
  wait
  "$PYTHON" -m launch.accelerator --part=table --folder="$work" --record="$folder/record.json" \
    --table="$folder/tables.md" >/dev/null &
}

if [[ ${MINIATURE-} ]]; then
  timing=(--seconds=0.05 --rounds=1) seconds=(60 40 20) models=8,16 many=16
  trained=(--case="64 (96 x 3" --case="512 points") measured=(--case="digits MLP, 2048")
  tests=(tests/test_spec.py)
  few=(--config.zoo.num_runs=16 --config.zoo.num_heldout=8)
  gpt=("${few[@]}" --config.generators.gpt.width=64 --config.generators.gpt.heads=2 --config.generators.gpt.blocks=2
    --config.generators.gpt.batch_size=32 --config.generators.gpt.steps=40)
  recipe=("${few[@]}" --config.zoo.epochs=1) digits=("${few[@]}" --config.zoo.epochs=2)
else
  timing=(--seconds=0.2 --rounds=2) seconds=(70 60 30) models=256,2048,8192,32768 many=2048,32768
  trained=(--case="batch 64 (512 x 6" --case="bfloat16 (512 x 6" --case="batch 256" --case="batch 64 (width 256")
  trained+=(--case="2048 points") measured=()
  tests=("${FAST[@]}")
  gpt=() recipe=(--config.zoo.num_runs=3000) digits=(--config.zoo.num_runs=100000)
fi
bench=("$PYTHON" -m launch.benchmark --resume "${timing[@]}")
rate=("$PYTHON" -m launch.rate --quiet)

export PYTHON wheels work JAX=${JAX:-jax[cuda12]}
# shellcheck disable=SC2016
part install 150 bash -c '
  needed="import jax, flax, optax, orbax.checkpoint, ml_collections, sklearn, matplotlib, tqdm, pandas"
  [[ -z $wheels ]] || "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$work/site" \
    "$wheels"/*.whl || exit
  "$PYTHON" -c "$needed" || { "$PYTHON" -m pip install -q -r requirements.txt && "$PYTHON" -m pip install -q "$JAX"; }'
part machine 60 "$PYTHON" -m launch.accelerator --part=machine --folder="$work"
part zoo 80 "${bench[@]}" --json="$work/zoo.json" --suite=zoo --case="own order" --models="$models" \
  --competitors=torch_func
if [[ $data ]]; then
  XLA_PYTHON_CLIENT_PREALLOCATE=true XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 \
    part gpt $((seconds[0] + 40)) "${rate[@]}" --seconds="${seconds[0]}" --generators --data_dir="$data" \
    --config=configs/gpt_mnist.py:published "${gpt[@]}" --workdir="$work/gpt" --json="$work/gpt.json"
  part recipe $((seconds[1] + 40)) "${rate[@]}" --seconds="${seconds[1]}" --config=configs/mnist_mlp.py \
    --config.zoo.random_snapshots=198 --data_dir="$data" "${recipe[@]}" \
    --workdir="$work/recipe" --json="$work/recipe.json"
else
  echo "gpt, recipe: left out, since DATA names no folder with MNIST"
fi
part digits $((seconds[2] + 40)) "${rate[@]}" --seconds="${seconds[2]}" --config=configs/digits.py "${digits[@]}" \
  --workdir="$work/digits" --json="$work/digits.json"
# What XLA would try out before it chooses an algorithm takes longer than the tests. With --capture=sys it is in the log
# what XLA said before it ended a process.
XLA_FLAGS="${XLA_FLAGS-} --xla_gpu_autotune_level=0" \
  part tests 120 "$PYTHON" -m pytest -v --capture=sys --tb=line -n "${JOBS:-12}" "${tests[@]}"
part shared 60 "${bench[@]}" --json="$work/shared.json" --suite=zoo --case="shared order" --models="$many" \
  --competitors=torch_func
part measures 60 "${bench[@]}" --json="$work/measures.json" --suite=evaluate --suite=partial --suite=audit \
  --suite=sample --competitors= "${measured[@]}"
# Programs of both compile for half a minute a case.
part generators 300 "${bench[@]}" --json="$work/generators.json" --suite=fields --suite=hyperrep --suite=gpt \
  --competitors=torch_loop "${trained[@]}"
wait
echo "all parts: $SECONDS s; $folder/tables.md"
