# To be sourced: how this project starts ranks. mpi_run N PROGRAM ... runs N ranks of it on this machine.
#
# Ranks may outnumber cores here: they yield while they wait (else an oversubscribed all-reduce takes 100 times as long) and are not bound (else two ranks
# get one core each, threads included). ob1 over shared memory starts at once and says nothing.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none  # containers forbid reading another process's memory, and it warns on every start
if [ -t 1 ]; then export WUNENG_TERMINAL=1; fi
mpi_run() {
  local ranks=$1
  shift
  mpirun --bind-to none -n "$ranks" "$@"
}
