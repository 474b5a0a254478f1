#!/usr/bin/env bash
# The tests that want a GPU, from a bundle (launch/bundle --tests) on a machine that has GPUs but not our
# packages.
#
#   FOLDER/bin/check_gpu [sanitizer]
#
# sanitizer: the kernels once more, under compute-sanitizer's memcheck, racecheck and synccheck
#
# The models want a python3 with numpy, the layouts h5py as well. What could not run is named at the end. Exit
# code: 0 where all that ran has passed. tests/bench/bench_gpu.py in the same folder compares with PyTorch.
set -uo pipefail
folder=$(cd "$(dirname "$0")/.." && pwd)
export GTEST_COLOR=no PATH="$folder/bin:$PATH" WUNENG_GOLDEN="$folder/tests/golden"
set -a
source "$folder/launch/mpi.env"
source "$folder/tests/ranks.env"
set +a
unset WUNENG_THREADS  # all cores, on a machine of this size
passed=0 failed=() left=()

# run NAME COMMAND...: 77 and a skip for want of a GPU are no pass.
run() {
  local name=$1 log
  shift
  log=$("$@" 2>&1)
  local code=$?
  if [ $code -ne 0 ] && [ $code -ne 77 ]; then
    failed+=("$name")
    printf 'FAILED  %s\n%s\n' "$name" "$(tail -n 60 <<< "$log")"
  elif [ $code -eq 77 ] || grep -q "no GPU here" <<< "$log"; then
    left+=("$name: no GPU was found")
  else
    passed=$((passed + 1))
    echo "passed  $name  ($(grep -iE '[0-9]+ (tests?|passed)' <<< "$log" | grep -i passed | tail -n 1))"
  fi
}
has_python() {  # has_python NAME MODULE...
  local name=$1
  shift
  python3 -c "import $(IFS=,; echo "$*")" 2> /dev/null && return
  left+=("$name: python3 lacks one of: $*")
  return 1
}

models=("$folder/tests/reference/check_models.py" "$folder/bin/reference_probe" quick cuda)
run kernels "$folder/bin/device_tests"
for program in device_comm_test gradients_test tensor_parallel_test pipeline_test stream_test; do
  for ranks in 1 2 4; do run "$program, $ranks ranks" mpirun -n $ranks "$folder/bin/$program"; done
done
if has_python models numpy; then
  run models python3 "${models[@]}"
  run "models in bf16" python3 "${models[@]}" bf16
fi
if has_python layouts numpy h5py; then
  run layouts python3 "$folder/tests/layouts/check_layouts.py" "$folder/bin/wuneng" cuda
fi
if [ "${1:-}" = sanitizer ]; then
  if sanitizer=$(PATH=$PATH:/usr/local/cuda/bin command -v compute-sanitizer); then
    for tool in memcheck racecheck synccheck; do
      run "kernels under $tool" "$sanitizer" --tool $tool --target-processes all --error-exitcode 1 \
        "$folder/bin/device_tests"
    done
  else
    left+=("compute-sanitizer: not found")
  fi
fi
for what in "${left[@]}"; do echo "not run: $what"; done
echo "$passed passed, ${#failed[@]} failed, ${#left[@]} not run"
[ ${#failed[@]} -eq 0 ] && [ $passed -gt 0 ]
