# To be sourced: how this project starts ranks on one machine (launch/mpi.env). mpi_run N PROGRAM ... runs N
# ranks.
#
# mpirun kills its ranks within two seconds of SIGINT (Ctrl-C), SIGTERM or SIGHUP, so mpi_run gives it SIGUSR1
# in their place, on which `wuneng train` saves and ends with exit code 75. A second one kills.
set -a
source "$(dirname "${BASH_SOURCE[0]}")/mpi.env"
set +a
if [ -t 1 ]; then export WUNENG_TERMINAL=1; fi
mpi_run() (
  ranks=$1
  shift
  setsid mpirun -n "$ranks" "$@" &  # out of reach of the terminal's own SIGINT
  mpirun=$!
  stop() {
    trap 'kill -TERM "$mpirun"' TERM INT HUP
    kill -USR1 "$mpirun"
  }
  trap stop TERM INT HUP
  trap 'kill -USR1 "$mpirun"' USR1
  trap 'kill -USR2 "$mpirun"' USR2
  while kill -0 "$mpirun" 2> /dev/null; do wait "$mpirun" || true; done  # a signal interrupts wait
  wait "$mpirun"
)
