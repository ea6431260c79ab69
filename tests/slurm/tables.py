"""What SLURM's daemons read, the environment of jobs, and what makes a process a node."""

from __future__ import annotations

TABLE = """\
ClusterName=mpipar
SlurmctldHost={host}({subnet}.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits cred_expire + 1 s before it starts again; SLURM's own number is 120.
AuthInfo=socket={folder}/munge/socket,cred_expire={expire}
# no cgroups, no systemd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/{task}
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmctldPidFile={folder}/pids/slurmctld
SlurmdPidFile={folder}/pids/slurmd.%n
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n/spool
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/slurmd.%n
SlurmctldDebug=info
SlurmdDebug=info
TmpFS={folder}/%n/tmp
MpiDefault=none
# a node that is set down stays down
ReturnToService=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
# at once, where a cluster would collect requests for seconds
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=10000,bf_interval=1
PriorityType=priority/basic
KillWait=5
JobRequeue=1
MinJobAge=3600
GresTypes=gpu
PartitionName=cpu Nodes={names} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={names} MaxTime=INFINITE State=UP
"""
NODE = (
    "NodeName={name} NodeAddr={address} Port={port} CPUs={cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} "
    "ThreadsPerCore=1 RealMemory=8000 Gres=gpu:{gpus} State=UNKNOWN\n"
)
# Without this, slurmd looks for cgroups and stops where nothing is mounted, although nothing here uses them.
CGROUP = "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n"
ENVIRONMENT = {
    # Open MPI as root.
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    # Its wheel has no munge, which Debian's PMIx names first.
    "PMIX_MCA_psec": "native",
    # The nodes do not know that they share their cores: a rank that waits lets another run.
    "OMPI_MCA_mpi_yield_when_idle": "1",
    # Addresses of a few bytes. Those of UCX have 800, of which SLURM 22.05's PMI2 read only a part, once in 300 starts.
    "MPIR_CVAR_CH4_NETMOD": "ofi",
}
# By boot_id mpipar knows which ranks share a machine.
START_NODE = """\
hostname "$1"; mount -t tmpfs tmpfs /dev/shm; mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/$1/boot_id" /proc/sys/kernel/random/boot_id
readlink /proc/self/ns/uts >"$2/$1/uts"; exec slurmd -c -N "$1"
"""
