#!/bin/sh
# Optional, for slurm.conf: Epilog=@PREFIX@/libexec/fairlead/epilog.sh, or called by a site's own.
#
# Fairlead needs no epilog: a step cleans up after itself. Where slurmstepd itself was killed, or crashed, nobody is left to do
# so. Its tasks end with it; what those have started, and half an image that was being pulled, are what this removes: processes
# in the cgroups of the job that has just ended (without cgroups: that say in their environment that they are its), and
# in the user's own store what no living process works in. Nothing else, and of no other job. It never fails: a failing
# epilog drains the node.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
case $SLURM_JOB_ID:$SLURM_JOB_UID:$SLURM_JOB_GID in
*[!0-9:]* | :* | *: | *::* | *:0:*) exit 0 ;;
esac

processes() {
	tracked=
	for tree in /sys/fs/cgroup/freezer/slurm /sys/fs/cgroup/freezer/slurm_"$SLURMD_NODENAME" \
		/sys/fs/cgroup/system.slice/slurmstepd.scope /sys/fs/cgroup/system.slice/"$SLURMD_NODENAME"_slurmstepd.scope; do
		[ ! -d "$tree" ] || tracked=1
		for job in "$tree/job_$SLURM_JOB_ID" "$tree/uid_$SLURM_JOB_UID/job_$SLURM_JOB_ID"; do
			[ ! -d "$job" ] || find "$job" -name cgroup.procs -exec cat {} +
		done
	done
	[ -z "$tracked" ] || return
	find /proc -maxdepth 1 -user "$SLURM_JOB_UID" -name '[0-9]*' | while read -r place; do
		! tr '\0' '\n' 2>/dev/null <"$place/environ" | grep -qx "SLURM_JOB_ID=$SLURM_JOB_ID" || echo "${place#/proc/}"
	done
}

for pid in $(processes); do kill -KILL "$pid" 2>/dev/null; done
for store in /var/tmp/fairlead-"$SLURM_JOB_UID".*; do
	[ ! -d "$store" ] || setpriv --reuid="$SLURM_JOB_UID" --regid="$SLURM_JOB_GID" --clear-groups --no-new-privs \
		@PREFIX@/libexec/fairlead/fairlead-sweep "$store" 2>/dev/null
done
exit 0
