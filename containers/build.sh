#!/bin/sh
# Builds the image with the first builder that is installed: `sh containers/build.sh`, from any directory. Without a
# builder, or where the base image cannot be fetched, it says so and ends with 0: continuous integration runs it too.
set -eu
cd "$(dirname "$0")/.."
BASE=$(sed -n 's/^FROM //p' containers/Dockerfile)

skip() {
    echo "no image is built: $1"
    exit 0
}

for builder in apptainer podman docker buildah ch-image none; do
    command -v "$builder" > /dev/null && break
done
case "$builder" in
    none) skip "apptainer, podman, docker, buildah and ch-image are not installed" ;;
    apptainer)
        base=$(mktemp -u).sif
        trap 'rm -f "$base"' EXIT
        apptainer pull "$base" "docker://$BASE" || skip "$BASE cannot be fetched"
        apptainer build train.sif containers/hpc-yolo.def
        ;;
    ch-image)
        ch-image pull "$BASE" || skip "$BASE cannot be fetched"
        ch-image build --force --tag hpc-yolo --file containers/Dockerfile .
        ;;
    *)
        "$builder" pull "$BASE" || skip "$BASE cannot be fetched"
        "$builder" build --tag hpc-yolo --file containers/Dockerfile .
        ;;
esac
