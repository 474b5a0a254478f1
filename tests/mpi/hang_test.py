#!/usr/bin/env python3
"""A rank that waits for ever is named, with its call, and the run ends by itself. usage: hang_test.py HANG_PROGRAM"""
import os
import subprocess
import sys
import time

env = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "self,vader",
       "OMPI_MCA_btl_vader_single_copy_mechanism": "none", "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_mpi_yield_when_idle": "1",
       "WUNENG_HANG_TIMEOUT": "2"}
begin = time.time()
done = subprocess.run(["mpirun", "--bind-to", "none", "-n", "2", sys.argv[1]], env=env, capture_output=True, text=True, timeout=50)
seconds = time.time() - begin
wanted = ["wuneng: hang: rank 0 has waited", "receive 'a tensor that never comes'", "world rank 1", "a call that ends"]
missing = [w for w in wanted if w not in done.stderr]
if missing or done.returncode == 0 or seconds > 20:
    print(f"missing {missing}, exit {done.returncode}, {seconds:.1f} s\n{done.stderr}")
    sys.exit(1)
print(f"1 passed, 0 failed ({seconds:.1f} s)")
