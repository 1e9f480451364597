#!/bin/bash
# A Docker engine and the base image out of Debian's packages alone, for machines without an engine or a registry of images.
# Needs root, debootstrap, and a kernel with overlayfs. The host is left as it is but for Docker's bridge and firewall chains.
#
#   deploy/debian_engine.sh start DIR         about two minutes, 1 GB and what the images take
#   eval "$(deploy/debian_engine.sh env DIR)" from then on `docker` and `docker compose` speak to it
#   deploy/debian_engine.sh stop DIR          DIR can be removed afterwards
set -euo pipefail
[ $# = 2 ] || { sed -n '2,7p' "$0" >&2; exit 2; }
[ "$1" != start ] || command -v debootstrap >/dev/null || { echo "debootstrap is not installed: apt-get install debootstrap" >&2; exit 1; }
repository=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$2"
dir=$(cd "$2" && pwd)

make_base() { # the base image's tree, with the certificate authorities that this machine trusts
  debootstrap --variant=minbase trixie "$dir/base" http://deb.debian.org/debian
  mkdir -p "$dir/base/usr/local/share/ca-certificates"
  cp /usr/local/share/ca-certificates/*.crt "$dir/base/usr/local/share/ca-certificates/" 2>/dev/null || true
  rm -rf "$dir"/base/var/cache/apt/* "$dir"/base/var/lib/apt/lists/*
}

make_engine() {
  cp -a "$dir/base" "$dir/engine"
  cp /etc/resolv.conf "$dir/engine/etc/resolv.conf"
  chroot "$dir/engine" sh -c 'apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    docker.io docker-cli docker-buildx docker-compose iptables ca-certificates'
  mkdir -p "$dir/engine/engine" "$dir/engine/oldroot" "$dir/engine$repository" "$dir/cli/cli-plugins" "$dir/bin"
  cp "$dir"/engine/usr/libexec/docker/cli-plugins/* "$dir/cli/cli-plugins/"
  cp "$dir/engine/usr/bin/docker" "$dir/bin/"
}

run_engine() { # in a mount namespace of its own, whose root is the engine's tree; compose's bind mounts need the repository
  export dir repository
  # shellcheck disable=SC2016
  exec unshare --mount --propagation private bash -c '
    set -e
    mount --bind "$dir/engine" "$dir/engine"
    for part in proc sys dev; do mount --rbind /$part "$dir/engine/$part"; done
    mount --bind "$repository" "$dir/engine$repository"
    cd "$dir/engine" && pivot_root . oldroot && cd / && umount -l /oldroot
    exec dockerd --storage-driver=overlay2 --host=unix:///engine/docker.sock --exec-root=/run/flawscribe-engine \
      --pidfile=/engine/pid --bip=172.31.250.1/24'
}

docker_here() { DOCKER_HOST=unix://$dir/engine/engine/docker.sock "$dir/bin/docker" "$@"; }

case $1 in
start)
  [ -d "$dir/base/etc" ] || make_base >"$dir/base.log" 2>&1
  [ -d "$dir/cli" ] || make_engine >"$dir/engine.log" 2>&1
  (run_engine >"$dir/dockerd.log" 2>&1) &
  for _ in $(seq 60); do
    docker_here info >/dev/null 2>&1 && break
    sleep 1
  done
  docker_here image inspect debian:13-slim >/dev/null 2>&1 ||
    tar -C "$dir/base" -c . | docker_here import --change 'CMD ["bash"]' - debian:13-slim
  ;;
env)
  echo "export DOCKER_HOST=unix://$dir/engine/engine/docker.sock DOCKER_CONFIG=$dir/cli PATH=$dir/bin:\$PATH"
  ;;
stop)
  kill "$(cat "$dir/engine/engine/pid")"
  ;;
*)
  sed -n '2,7p' "$0" >&2
  exit 2
  ;;
esac
