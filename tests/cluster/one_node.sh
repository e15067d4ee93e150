#!/usr/bin/env bash
# A real Slurm of one node on this machine, for `make test-cluster`: slurmctld, slurmd and munge of Debian.
#   bash tests/cluster/one_node.sh install       as root: the packages, where apt-get has them
#   bash tests/cluster/one_node.sh start FOLDER  as root: then SLURM_CONF=FOLDER/slurm.conf sbatch … works, partition "main"
#   bash tests/cluster/one_node.sh stop FOLDER   ends what `start` has started, and nothing else
# Configuration, state and logs stay in FOLDER; a Slurm that the machine may have otherwise is not touched.
set -euo pipefail

start() {
    local folder host
    folder=$(mkdir -p "$1" && cd "$1" && pwd) host=$(hostname -s)
    mkdir -p "$folder/state" "$folder/spool" /run/munge
    chown munge: /run/munge
    cat >"$folder/slurm.conf" <<END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ReturnToService=2
# Two jobs at a time, however many processors there are; tests do not wait for the scheduler.
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
END
    if ! pgrep -x munged >/dev/null; then
        runuser -u munge -- munged --pid-file "$folder/munged.pid" || runuser -u munge -- munged
        [ -s "$folder/munged.pid" ] || pgrep -x munged >"$folder/munged.pid"
    fi
    export SLURM_CONF="$folder/slurm.conf"
    slurmctld -f "$SLURM_CONF"
    sleep 1
    slurmd -f "$SLURM_CONF"
    for _ in $(seq 60); do
        sinfo --noheader --format %t 2>/dev/null | grep -q idle && return 0
        sleep 0.5
    done
    tail -n 5 "$folder"/*.log >&2
    return 1
}

stop() {
    local name
    for name in slurmd slurmctld munged; do
        if [ -s "$1/$name.pid" ]; then
            kill "$(cat "$1/$name.pid")" 2>/dev/null || true
            rm -f "$1/$name.pid"
        fi
    done
}

case ${1:-} in
install)
    command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && exit 0
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || true
    apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge
    ;;
start) start "${2:?FOLDER}" ;;
stop) stop "${2:?FOLDER}" ;;
*) echo "one_node.sh install, start FOLDER or stop FOLDER" >&2 && exit 2 ;;
esac
