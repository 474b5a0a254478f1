#!/usr/bin/env bash
# By hand, as root: runs a bundle (launch/bundle) on a bare Debian 11, whose C library is older and which has
# none of our packages.
#
#   tests/program/check_bundle.sh BUNDLE WORK_FOLDER
#
# Needs debootstrap and, where the bundle was built with CUDA, its libraries in /usr/local/cuda.
set -euo pipefail
bundle=$(realpath "$1") root=$(realpath -m "$2")/bullseye
cd "$(dirname "$0")/../.."
mounts=()
trap 'for m in "${mounts[@]}"; do umount "$m"; done' EXIT
mount_at() { mkdir -p "$root/$2"; mount --bind "$1" "$root/$2"; mounts=("$root/$2" "${mounts[@]}"); }
[ -d "$root/bin" ] || debootstrap --variant=minbase bullseye "$root" http://deb.debian.org/debian
mount_at /proc proc
mount_at /sys sys
mount_at /dev dev
mount_at "$bundle" opt/wuneng
[ ! -d /usr/local/cuda ] || mount_at "$(realpath /usr/local/cuda)" usr/local/cuda
rm -rf "$root/work"
mkdir -p "$root/work"
cp -r launch docs "$root/work/"
chroot "$root" /bin/sh -euc '
  cd /work
  set -a
  . launch/mpi.env
  set +a
  /opt/wuneng/bin/mpirun -n 2 /opt/wuneng/bin/wuneng train launch/recipes/quickstart_teacher.toml \
    "data.paths=[\"launch\", \"docs\"]" optimizer.steps=5 optimizer.warmup=0
  /opt/wuneng/bin/wuneng inspect --no-tensors out/quickstart/teacher/checkpoints'
echo "the bundle runs on a bare Debian 11"
