# To be sourced: how this project starts ranks on one machine (launch/mpi.env). mpi_run N PROGRAM ... runs N
# ranks.
set -a
source "$(dirname "${BASH_SOURCE[0]}")/mpi.env"
set +a
if [ -t 1 ]; then export WUNENG_TERMINAL=1; fi
mpi_run() {
  local ranks=$1
  shift
  mpirun -n "$ranks" "$@"
}
