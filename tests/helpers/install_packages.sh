#!/bin/sh
# Installs what the tests' private Slurm cluster, their hosts, terminals and shells need, and Charliecloud for a test in a
# real container (Debian, Ubuntu). Quick and quiet where it is there already; where it may not be installed, says so in one
# line: the cluster's tests are skipped then, and the container's test uses a stand-in.
set -eu

PACKAGES="slurmctld slurmd slurmdbd slurm-client munge mariadb-server tmux zsh fish iproute2"
PROGRAMS="munged mariadbd mariadb-install-db slurmdbd slurmctld slurmd sbatch srun squeue sacct sacctmgr scontrol unshare nsenter ip tmux zsh fish"
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

missing_of() {  # the programs that are not installed
    for program in $1; do
        command -v "$program" > /dev/null || printf ' %s' "$program"
    done
}

install() {  # what it is for, what happens without, programs, packages
    missing=$(missing_of "$3")
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        echo "$2: not root, so these cannot be installed:$missing"
    elif ! command -v apt-get > /dev/null; then
        echo "$2: no apt-get here to install:$missing"
    else
        echo "installing for $1: $4"
        # shellcheck disable=SC2086
        if ! { apt-get -qq update && apt-get -qq install --yes --no-install-recommends $4; } > "$log" 2>&1; then
            tail -n 5 "$log" >&2
            echo "$2: apt-get could not install$missing"
        fi
    fi
}

[ -n "$(missing_of "$PROGRAMS ch-run")" ] || exit 0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# The tests start their own daemons; the packages must not start the system's.
policy=/usr/sbin/policy-rc.d
if [ "$(id -u)" -eq 0 ] && [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
    trap 'rm -f "$log" "$policy"' EXIT
fi
install "the Slurm cluster tests" "Slurm cluster tests will be skipped" "$PROGRAMS" "$PACKAGES"
install "the container test" "a stand-in will replace the real container" ch-run charliecloud-runtime
