# shellcheck shell=bash disable=SC2034
# What every script of the test bed shares: where the bed lives, how a step is told, how a daemon is started and ended.
#
# One line per step goes to the terminal; everything that a step prints goes to the log, which a failing step names.
# Rules: steps run under `set -e` in the foreground (Ctrl-C ends them); a daemon is ended only if its pid file and
# its command line both say that this bed started it.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin # no version-manager shims, and sbin for an su'ed root
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

BED_NAME=${FAIRLEAD_BED:-}                          # empty for the one cluster that plain `srun` reaches
BED=/var/lib/fairlead-bed${BED_NAME:+-$BED_NAME}    # configuration, state, logs and the registry's data
BED_CACHE=/var/cache/fairlead-bed                   # images by the hash of their recipe; safe to remove
BED_LOG=${FAIRLEAD_BED_LOG:-$BED/bed.log}
BED_REGISTRY=127.0.0.1:${FAIRLEAD_BED_REGISTRY_PORT:-5000}
BED_USER=demo                                       # the ordinary user of the quickstart and of tests/slurm
mapfile -t BED_NODES < <(seq -f "${BED_NAME}n%g" "${FAIRLEAD_BED_NODES:-4}")

exec 3>&1 # the terminal, whatever a step does with its own stdout
bed_step=
trap bed_report_failure EXIT

# step TITLE COMMAND...: run it with its output in the log, print the title with a mark and the seconds it took.
step() {
	bed_step=$1
	local begin=$EPOCHREALTIME
	shift
	mkdir -p "${BED_LOG%/*}"
	printf -- '--- %(%T)T %s\n' -1 "$bed_step" >>"$BED_LOG"
	"$@" >>"$BED_LOG" 2>&1 </dev/null
	printf '  ok    %-64s %6.1f s\n' "$bed_step" "$(elapsed "$begin")" >&3
	bed_step=
}

note() { printf '  %s\n' "$*" >&3; }

# die MESSAGE...: end the script with one line; the step in progress is named by the EXIT trap.
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	[[ -z $bed_step ]] || bed_reason=$*
	exit 1
}

bed_report_failure() {
	local status=$?
	[[ $status -ne 0 && -n $bed_step ]] || return 0
	{
		printf '  FAIL  %s\n' "$bed_step"
		if [[ -n ${bed_reason:-} ]]; then printf '        %s\n' "$bed_reason"; else tail -n 8 "$BED_LOG" | sed 's/^/        /'; fi
		printf '        the whole output: %s\n' "$BED_LOG"
	} >&3
}

elapsed() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'; }

need_root() { [[ $EUID -eq 0 ]] || die "must run as root (user $(id -un) cannot start a cluster); try: sudo $0"; }

# wait_until SECONDS COMMAND...: poll every 50 ms; non-zero when the time is over.
wait_until() {
	local deadline=$((SECONDS + $1 + 1))
	shift
	until "$@"; do
		((SECONDS < deadline)) || return 1
		sleep 0.05
	done
}

# daemon_pid PIDFILE MARK: print the pid if that process lives and its command line contains MARK (pids are reused).
daemon_pid() {
	local pid
	[[ -s $1 ]] && read -r pid <"$1" && [[ $pid =~ ^[0-9]+$ && -r /proc/$pid/cmdline ]] || return 1
	tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$2" || return 1
	echo "$pid"
}

gone() { [[ ! -e /proc/$1 ]] || grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null; }

# daemon_end PIDFILE MARK: TERM, then KILL after 10 s; nothing if it is not ours or not there.
daemon_end() {
	local pid
	if pid=$(daemon_pid "$1" "$2"); then
		kill "$pid"
		wait_until 10 gone "$pid" || kill -KILL "$pid"
	fi
	rm -f "$1"
}

# The address that this machine fetches Debian from, whichever way its sources are written; empty before apt-get update.
mirror() {
	local suite
	suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
	# shellcheck disable=SC2016 # apt's own fields
	apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' |
		awk -v suite="$suite" '$1 == suite && !seen { print $2; seen = 1 }'
}

# This machine's way to the mirror, for an apt that runs in another root.
proxy_settings() {
	apt-config dump --no-empty --format '%f "%v";%n' Acquire::http Acquire::https Acquire::Check-Date Acquire::Retries
}
