#!/bin/sh
# Installs what the tests' private Slurm cluster, their hosts, terminals and shells need (Debian, Ubuntu). Quick and quiet
# where it is there already; where it may not be installed, says so in one line: the cluster's tests are skipped then.
set -eu

PACKAGES="slurmctld slurmd slurmdbd slurm-client munge mariadb-server tmux zsh fish iproute2"
PROGRAMS="munged mariadbd mariadb-install-db slurmdbd slurmctld slurmd sbatch srun squeue sacct sacctmgr scontrol unshare nsenter ip tmux zsh fish"
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

skip() {
    echo "Slurm cluster tests will be skipped: $1"
    exit 0
}

missing=""
for program in $PROGRAMS; do
    command -v "$program" > /dev/null || missing="$missing $program"
done
[ -n "$missing" ] || exit 0
[ "$(id -u)" -eq 0 ] || skip "not root, so these cannot be installed:$missing"
command -v apt-get > /dev/null || skip "no apt-get here to install:$missing"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# The tests start their own daemons; the packages must not start the system's.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
    trap 'rm -f "$log" "$policy"' EXIT
fi
echo "installing for the Slurm cluster tests: $PACKAGES"
# shellcheck disable=SC2086
if ! { apt-get -qq update && apt-get -qq install --yes --no-install-recommends $PACKAGES; } > "$log" 2>&1; then
    tail -n 5 "$log" >&2
    skip "apt-get could not install$missing"
fi
