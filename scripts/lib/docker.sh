# An engine and a base image, where there are none. Sourced by demo-docker.

# The installed client matches the installed engine; one found earlier in PATH may not.
docker=$(PATH=/usr/bin:$PATH command -v docker)

docker_up() { "$docker" version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# Starts an engine of our own beside the machine's set-up, if none runs: own socket, own data, no
# rule of the packet filter touched. $1: directory for all that.
start_engine() {
  if docker_up; then
    echo "using the running Docker Engine $("$docker" version --format '{{.Server.Version}}')"
    return
  fi
  local directory=$1
  mkdir -p "$directory"
  export DOCKER_HOST=unix://$directory/docker.sock
  dockerd --host "$DOCKER_HOST" --data-root "$directory/data" --exec-root "$directory/exec" \
    --pidfile "$directory/docker.pid" --bridge none \
    --iptables=false --ip6tables=false --ip-masq=false >"$directory/log" 2>&1 &
  engine=$!
  # The log is the only thing that tells when it is ready or why it is not.
  if ! timeout 60 grep -q -m1 'API listen on' <(exec tail -n +1 -F --pid="$engine" "$directory/log" 2>/dev/null) ||
    ! docker_up; then
    tail -5 "$directory/log" >&2
    die "Docker Engine did not start, see above"
  fi
  echo "started Docker Engine $("$docker" version --format '{{.Server.Version}}')"
}

stop_engine() {
  [ -n "${engine:-}" ] || return 0
  kill -TERM "$engine" 2>/dev/null || true
  wait "$engine" 2>/dev/null || true
  engine=''
  # The engine leaves the parent of its containers' control groups. Only an empty one can be removed.
  rmdir /sys/fs/cgroup/docker /sys/fs/cgroup/*/docker 2>/dev/null || true
}

compose() {
  if "$docker" compose version >/dev/null 2>&1; then
    "$docker" compose --project-name baton --file deploy/docker/compose.yaml "$@"
  else
    docker-compose --project-name baton --file deploy/docker/compose.yaml "$@"
  fi
}

# Debian's mirror as this machine knows it.
debian_mirror() {
  cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
    grep -vE '^[[:space:]]*#' | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -1 | tr -d ' '
}

# debian:trixie from the registry, else made here.
base_image() {
  "$docker" image inspect debian:trixie >/dev/null 2>&1 && return
  if timeout 60 "$docker" pull -q debian:trixie 2>/dev/null; then return; fi
  local cache=$1/trixie.tar root
  if [ ! -s "$cache" ]; then
    echo "no registry can be reached: making debian:trixie with debootstrap"
    root=$(mktemp -d "$1/trixie.XXXXXX")
    debootstrap --variant=minbase trixie "$root" "$(debian_mirror)" >"$1/debootstrap.log" 2>&1 ||
      { tail -5 "$1/debootstrap.log" >&2; die "debootstrap failed, see above"; }
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    tar -C "$root" -cf "$cache.new" . && mv "$cache.new" "$cache"
    rm -rf "$root"
  fi
  "$docker" import "$cache" debian:trixie >/dev/null
}
