#!/usr/bin/env bash
# Installs what ovsnet needs and starts what was asked for. `./bootstrap.sh --help` tells the commands.
#
# Every step looks first and acts only where something is missing: a second run changes nothing, and
# with everything in place nothing is fetched. Several runs at once wait for one another.
set -euo pipefail

TREE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
LOG=${OVSNET_BOOTSTRAP_LOG:-/var/log/ovsnet-bootstrap.log}
POLICY=/usr/sbin/policy-rc.d
POLICY_MARK="# made by ovsnet's bootstrap.sh"
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive

# A tool, or the file that shows it is there, and the Debian package that has it.
RUN_TOOLS=(
  ovs-vswitchd:openvswitch-switch nft:nftables ip:iproute2 tc:iproute2 ethtool:ethtool ping:iputils-ping
  iptables:iptables flock:util-linux chrt:util-linux setpriv:util-linux sysctl:procps
)
CNI_PLUGINS=(portmap bandwidth tuning loopback)
TEST_TOOLS=(
  tcpdump:tcpdump iperf3:iperf3 traceroute:traceroute conntrack:conntrack containerd:containerd nsenter:util-linux
  shellcheck:shellcheck
)
# Those of ovsnet/lab/kubernetes/tools.py; what `lab --kubernetes` and tests of a cluster need besides Go.
CLUSTER_TOOLS=(
  bash:bash busybox:busybox-static containerd:containerd curl:curl iperf3:iperf3 openssl:openssl runc:runc ss:iproute2
)
# Those of tests/kernel/uml.py.
KERNEL_TESTS=no
KERNEL_PACKAGES=(linux-source-6.1 flex bison bc make gcc libc6-dev xz-utils)

usage() {
  cat <<'END'
usage: bootstrap.sh COMMAND

  lab [ARGS...]              install what is missing, then `ovsnet lab up ARGS`: a cluster on this machine;
                             with one of its other commands (`lab down`, `lab status`, ...) that one instead
  test [--quick]             install what is missing, then run the whole test suite;
                             --quick leaves out the slow part, random faults, the kernel's datapath and the
                             Kubernetes cluster
  node --config FILE         make this machine a node: Open vSwitch, agent, CNI plugin, systemd unit
       [--dry-run]           only tell what would be done
       [--uninstall]         take back exactly what was installed
       [--root DIR]          install below DIR: no packages, no services

environment: OVSNET_PYTHON (the Python to use, 3.11 or newer), OVSNET_BOOTSTRAP_LOG (a file),
pip's own variables (PIP_INDEX_URL, PIP_NO_INDEX, PIP_FIND_LINKS, ...)
END
}

say() { printf '==> %s\n' "$*"; }

# fail MESSAGE HINT
fail() {
  printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
  exit 1
}

need_root() {
  [[ $EUID -eq 0 ]] || fail "this needs root" "run it with sudo"
}

# Holds a lock on a file or folder, by file descriptor 9, until `unlock` or the end.
lock() {
  if [[ -d $1 ]]; then exec 9<"$1"; else exec 9>"$1"; fi
  if ! flock -n 9; then
    say "waiting for another bootstrap.sh to finish"
    flock 9
  fi
}

unlock() { exec 9>&-; }

# Runs a command with its output in the log; shows the end of it when the command fails.
logged() {
  local what=$1
  shift
  printf '\n### %s: %s\n' "$(date '+%F %T')" "$*" >>"$LOG"
  if ! "$@" >>"$LOG" 2>&1 9>&-; then
    tail -n 15 "$LOG" | sed 's/^/    /' >&2
    fail "$what failed" "the whole output is in $LOG; is the network there?"
  fi
}

# --- packages ---------------------------------------------------------------------------------------

# Prints the packages of the tools in the arguments that are missing, each once.
missing_packages() {
  local entry
  for entry in "$@"; do
    command -v "${entry%%:*}" >/dev/null || printf '%s\n' "${entry##*:}"
  done | sort -u
}

# Everything that is missing here; arguments: more tools than a node needs.
needed_packages() {
  missing_packages "${RUN_TOOLS[@]}" "$@"
  missing_plugin_package
  missing_python_package
}

missing_plugin_package() {
  local name
  for name in "${CNI_PLUGINS[@]}"; do
    if [[ ! -x /usr/lib/cni/$name && ! -x /opt/cni/bin/$name ]]; then
      printf 'containernetworking-plugins\n'
      return
    fi
  done
}

missing_python_package() {
  find_python >/dev/null || printf 'python3-venv\n'
}

# Installs packages. start=no keeps every service from being started; a policy that is there is respected.
install_packages() {
  local start=$1
  shift
  [[ $# -gt 0 ]] || return 0
  command -v apt-get >/dev/null ||
    fail "missing here: $*" "install these Debian packages' equivalents; only apt is known to this script"
  say "installing packages: $* (output in $LOG)"
  logged "apt-get update" apt-get -q update
  if [[ $start == no ]]; then
    forbid_services
  fi
  logged "apt-get install" apt-get -q -y --no-install-recommends install "$@"
  allow_services
  if [[ $start == no && -d /run/systemd/system && " $* " == *" openvswitch-switch "* ]]; then
    logged "systemctl disable" systemctl disable openvswitch-switch.service
  fi
}

forbid_services() {
  [[ -e $POLICY ]] && return
  trap allow_services EXIT
  printf '#!/bin/sh\n%s\nexit 101\n' "$POLICY_MARK" >"$POLICY"
  chmod 755 "$POLICY"
}

# Also removes what a run that was killed has left.
allow_services() {
  if grep -qsF "$POLICY_MARK" "$POLICY"; then
    rm -f "$POLICY"
  fi
}

# --- python -----------------------------------------------------------------------------------------

# Prints a Python that is new enough and can make virtual environments.
# The distribution's comes first: what a shim in PATH stands for depends on the user and the folder.
find_python() {
  local python minor
  local -a candidates=("${OVSNET_PYTHON:-}" /usr/bin/python3)
  for minor in 14 13 12 11; do
    candidates+=("/usr/bin/python3.$minor" "/usr/local/bin/python3.$minor")
  done
  candidates+=("$(command -v python3 || true)")
  for python in "${candidates[@]}"; do
    if [[ -n $python && -x $python ]] &&
      "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s\n' "$python"
      return
    fi
  done
  return 1
}

require_python() {
  find_python || fail "no Python 3.11 or newer with venv here" "install one and name it: OVSNET_PYTHON=/path/to/python3"
}

# What a virtual environment was made from; it is made anew when this changes. An editable one follows
# the source by itself, so only what pip reads counts.
fingerprint() {
  local python=$1 kind=$2
  {
    "$python" -VV
    printf '%s %s\n' "$kind" "$TREE"
    cd "$TREE"
    if [[ $kind == copied ]]; then
      find ovsnet flows templates pyproject.toml -type f -not -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum
    else
      sha256sum pyproject.toml
    fi
  } | sha256sum | cut -d' ' -f1
}

# make_venv DIR editable|copied REQUIREMENTS...: a virtual environment with ovsnet in it.
make_venv() {
  local dir=$1 kind=$2 python stamp
  shift 2
  python=$(require_python)
  stamp=$(fingerprint "$python" "$kind")
  venv_is_current "$dir" "$stamp" && return
  say "installing ovsnet into $dir (output in $LOG)"
  rm -f "$dir/.ovsnet"
  "$dir/bin/python" -c 'import pip' 2>/dev/null || logged "making $dir" "$python" -m venv --clear "$dir"
  logged "pip install" "$dir/bin/python" -m pip install --disable-pip-version-check "$@"
  # Where it will run it may not write: templates are compiled once now, as pip does with modules.
  [[ $kind == editable ]] || logged "compiling templates" "$dir/bin/python" -I -c \
    'from ovsnet import render, resources; render.Renderer(resources.flows_dir())'
  printf '%s\n' "$stamp" >"$dir/.ovsnet"
}

venv_is_current() {
  [[ -x $1/bin/python && -x $1/bin/ovsnet && $(cat "$1/.ovsnet" 2>/dev/null) == "$2" ]]
}

# --- lab and test -----------------------------------------------------------------------------------

# Prints what compiles the CNI executable, which is optional: nothing where only apt's packages are known.
missing_compiler_packages() {
  command -v apt-get >/dev/null || return 0
  command -v cc gcc clang tcc >/dev/null || printf 'gcc\n'
  [[ -e /usr/include/stdio.h ]] || printf 'libc6-dev\n'
}

# Whether the kernel that runs has Open vSwitch's datapath, or a module with it.
kernel_has_openvswitch() {
  [[ -d /sys/module/openvswitch ]] || modprobe -q openvswitch 2>/dev/null
}

# Prints what tests on the kernel's datapath need where the kernel has none: they build a user-mode Linux.
missing_kernel_packages() {
  local package
  if [[ $KERNEL_TESTS == no ]] || ! command -v apt-get >/dev/null || kernel_has_openvswitch; then
    return 0
  fi
  for package in "${KERNEL_PACKAGES[@]}"; do
    [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) == "ii " ]] || printf '%s\n' "$package"
  done
}

# Packages and .venv of a checkout. Arguments: more tools than the lab needs.
prepare_checkout() {
  lock /run/lock/ovsnet-bootstrap.lock
  allow_services
  local -a packages
  mapfile -t packages < <(needed_packages "$@"; missing_compiler_packages; missing_kernel_packages)
  install_packages no "${packages[@]}"
  make_venv "$TREE/.venv" editable -e "$TREE" 'tox>=4.11'
}

# link_command LINK: has it lead to this checkout's command, unless it leads elsewhere.
link_command() {
  local link=$1 target=$TREE/.venv/bin/ovsnet
  if [[ -L $link && $(readlink "$link") == "$target" ]]; then
    return
  elif [[ -L $link && -e $link ]]; then
    say "$link leads to $(readlink "$link"), not to this checkout; use $target, or: ln -sfn $target $link"
  elif [[ -e $link ]]; then
    say "$link is something else's; use $target"
  else
    # Also in place of one that leads nowhere: a checkout that is gone.
    ln -sfn "$target" "$link"
    say "linked $link to $target"
  fi
}

run_lab() {
  need_root
  if [[ " $* " == *" --kubernetes "* ]]; then
    prepare_checkout "${CLUSTER_TOOLS[@]}"
  else
    prepare_checkout
  fi
  link_command /usr/local/bin/ovsnet
  unlock
  local -a of_all=() of_one=()
  while [[ $# -gt 0 ]]; do
    case $1 in
      --name) of_all+=("$1" "${2-}"); shift "$(($# > 1 ? 2 : 1))" ;;
      --name=*) of_all+=("$1"); shift ;;
      *) of_one=("$@"); break ;;
    esac
  done
  if [[ ${of_one[0]:--} == -* ]]; then
    of_one=(up "${of_one[@]}")
  fi
  exec "$TREE/.venv/bin/ovsnet" lab "${of_all[@]}" "${of_one[@]}"
}

# build_beside COMMAND...: has what later tests need built from now on, with what other tests leave of the processors.
# That ends with this process, whatever it has become. Whoever needs it waits for it.
build_beside() {
  setpriv --pdeathsig TERM "$@" >>"$LOG" 2>&1 9>&- &
}

# Adds the tests on a Kubernetes cluster to `environments`.
add_cluster() {
  local words
  if ! words=$("$TREE/.venv/bin/python" -m ovsnet.lab.kubernetes --look 2>&1); then
    say "leaving out the tests on a Kubernetes cluster: $words"
    return
  fi
  environments+=,cluster
  build_beside chrt --idle 0 "$TREE/.venv/bin/python" -m ovsnet.lab.kubernetes
}

run_test() {
  local -a options=()
  local environments=lint,unit,flows,integration
  case ${1:-} in
    --quick) options=(-- -m "not slow") ;;
    "")
      if kernel_has_openvswitch || command -v apt-get >/dev/null; then
        environments+=,kernel KERNEL_TESTS=yes
      else
        say "leaving out the tests on the kernel's datapath: this kernel has none, and building one takes Debian's source"
      fi ;;
    *) usage >&2; exit 2 ;;
  esac
  need_root
  prepare_checkout "${TEST_TOOLS[@]}" "${CLUSTER_TOOLS[@]}"
  unlock
  if [[ ${1:-} != --quick ]]; then
    # Needed first, so not with the same right.
    if [[ $KERNEL_TESTS == yes ]] && ! kernel_has_openvswitch; then
      build_beside nice -n 19 "$TREE/.venv/bin/python" "$TREE/tests/kernel/uml.py"
    fi
    add_cluster
  fi
  # tox itself holds this one: two runs in one checkout would spoil each other's environments.
  mkdir -p "$TREE/.tox"
  lock "$TREE/.tox"
  cd "$TREE"
  say "running tests: ${environments//,/, }"
  exec .venv/bin/tox -e "$environments" "${options[@]}"
}

# --- node -------------------------------------------------------------------------------------------

ROOT="" DRY_RUN=no CHANGES=0
# The manifest has one line for everything that was put on the machine: KIND PATH [SHA256]; and one for what
# the agent makes there by itself: `socket PATH`, `bridge NAME`.

manifest() { printf '%s\n' "$ROOT/var/lib/ovsnet-bootstrap/manifest"; }

# change WHAT COMMAND...: carries out one step, or only tells it.
change() {
  local what=$1
  shift
  CHANGES=$((CHANGES + 1))
  if [[ $DRY_RUN == yes ]]; then
    say "would: $what"
  else
    say "$what"
    "$@"
  fi
}

remember() {
  mkdir -p "$(dirname "$(manifest)")"
  forget "$1" "$2"
  printf '%s\n' "$*" >>"$(manifest)"
}

forget() {
  local rest
  [[ -e $(manifest) ]] || return 0
  rest=$(awk -v kind="$1" -v path="$2" '!($1 == kind && $2 == path)' "$(manifest)")
  printf '%s' "${rest:+$rest$'\n'}" >"$(manifest).new"
  mv -f "$(manifest).new" "$(manifest)"
}

# Prints the checksum that a file had when it was installed; nothing if it is not ours.
remembered() {
  awk -v path="$1" '$1 == "file" && $2 == path { print $3 }' "$(manifest)" 2>/dev/null || true
}

checksum() { sha256sum <"$1" | cut -d' ' -f1; }

make_parents() {
  local dir
  dir=$(dirname "$1")
  [[ -d $dir ]] && return
  make_parents "$dir"
  mkdir -m 755 "$dir"
  remember dir "$dir"
}

# install_file SOURCE PATH MODE [WHAT IT IS]. A file of somebody else is kept beside it.
install_file() {
  local source=$1 path=$ROOT$2 mode=$3 kind=${4-}
  if [[ -f $path ]] && cmp -s "$source" "$path" && [[ $(stat -c %a "$path") == "$mode" ]]; then
    return
  fi
  change "write $path${kind:+ ($kind)}" place_file "$source" "$path" "$mode"
}

place_file() {
  local source=$1 path=$2 mode=$3
  make_parents "$path"
  if [[ -e $path && $(remembered "$path") != "$(checksum "$path")" ]]; then
    if [[ ! -e $path.before-ovsnet ]]; then
      cp -p "$path" "$path.before-ovsnet"
      remember saved "$path.before-ovsnet"
    fi
    say "what was in $path is kept as $path.before-ovsnet"
  fi
  install -m "$mode" "$source" "$path.new"
  mv -f "$path.new" "$path"
  remember file "$path" "$(checksum "$path")"
}

node_packages() {
  [[ -z $ROOT ]] || return 0
  local -a packages
  mapfile -t packages < <(needed_packages)
  [[ ${#packages[@]} -gt 0 ]] || return 0
  change "install packages: ${packages[*]}" node_install_packages "${packages[@]}"
}

# Remembers dependencies too: all that was not there before.
node_install_packages() {
  local package before
  before=$(installed_packages)
  install_packages yes "$@"
  while read -r package; do
    remember package "$package"
  done < <(comm -13 <(printf '%s\n' "$before") <(installed_packages))
}

installed_packages() {
  # shellcheck disable=SC2016  # dpkg-query's own variables
  dpkg-query -W -f '${db:Status-Abbrev} ${binary:Package}\n' | awk '$1 == "ii" { print $2 }' | sort
}

# dpkg removes nothing that another package needs, where apt would remove that one too.
remove_packages() {
  local package
  dpkg --remove "$@" >>"$LOG" 2>&1 9>&- || true
  for package in "$@"; do
    if installed_packages | grep -qxF "$package"; then
      say "kept: package $package, which others need"
    fi
  done
}

node_venv() {
  local dir=$ROOT/opt/ovsnet python
  if python=$(find_python) && venv_is_current "$dir" "$(fingerprint "$python" copied)"; then
    return
  fi
  change "install ovsnet into $dir" node_make_venv "$dir"
}

node_make_venv() {
  if [[ -e $1 && ! -e $1/pyvenv.cfg ]]; then
    fail "$1 exists and is not ovsnet's" "move it away"
  fi
  make_parents "$1"
  remember venv "$1"
  make_venv "$1" copied --upgrade "$TREE"
}

# Prints an `ovsnet` command to check and render with; nothing before the first install.
node_command() {
  local dir
  for dir in "$ROOT/opt/ovsnet" "$TREE/.venv"; do
    if [[ -x $dir/bin/ovsnet ]]; then
      printf '%s\n' "$dir/bin/ovsnet"
      return
    fi
  done
}

node_plugins() {
  local name
  for name in "${CNI_PLUGINS[@]}"; do
    if [[ ! -e $ROOT/opt/cni/bin/$name && -x /usr/lib/cni/$name ]]; then
      change "link $ROOT/opt/cni/bin/$name to Debian's" place_link "/usr/lib/cni/$name" "$ROOT/opt/cni/bin/$name"
    fi
  done
}

place_link() {
  make_parents "$2"
  ln -s "$1" "$2"
  remember link "$2"
}

install_node() {
  local config=$1 command rendered facts before
  [[ -r $config ]] || fail "$config can't be read" "name the agent's configuration: --config FILE"
  node_packages
  before=$CHANGES
  node_venv
  command=$(node_command)
  if [[ -z $command ]]; then
    say "would: check $config, then write /etc/ovsnet/agent.yaml, /opt/cni/bin/ovsnet,"
    say "       /etc/cni/net.d/10-ovsnet.conflist and /etc/systemd/system/ovsnet.service, and start the agent"
    return
  fi
  rendered=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder's name is to be filled in now
  trap "rm -rf '$rendered'; allow_services" EXIT
  facts=$(PYTHONDONTWRITEBYTECODE=1 "$command" node-files --config "$config" "$rendered") || exit 1
  local watched socket bridge plugin
  { read -r watched; read -r socket; read -r bridge; read -r plugin || true; } <<<"$facts"
  install_file "$config" /etc/ovsnet/agent.yaml 644
  if [[ $DRY_RUN == no ]]; then
    remember socket "$socket"
    remember bridge "$bridge"
  fi
  if [[ -n $watched && ! -d $ROOT$watched ]]; then
    change "make $ROOT$watched, for the cluster's Node manifests" make_parents "$ROOT$watched/x"
  fi
  install_file "$rendered/ovsnet.service" /etc/systemd/system/ovsnet.service 644
  local agent_changes=$((CHANGES - before))
  node_plugins
  install_file "$rendered/ovsnet" /opt/cni/bin/ovsnet 755 "$plugin"
  # Last: a runtime takes the network for ready when this file is there.
  install_file "$rendered/10-ovsnet.conflist" /etc/cni/net.d/10-ovsnet.conflist 644
  start_node "$agent_changes"
  [[ $CHANGES -gt 0 ]] || say "everything is in place; nothing changed"
}

start_node() {
  local agent_changes=$1
  [[ -z $ROOT ]] || return 0
  if [[ ! -d /run/systemd/system ]]; then
    say "systemd does not run here; start the agent with: /opt/ovsnet/bin/ovsnet agent --config /etc/ovsnet/agent.yaml"
    return
  fi
  if ! systemctl -q is-active openvswitch-switch.service; then
    change "start Open vSwitch" logged "starting Open vSwitch" systemctl enable --now openvswitch-switch.service
  fi
  if [[ $agent_changes -gt 0 ]] || ! systemctl -q is-active ovsnet.service; then
    change "start the agent" start_agent
  fi
}

start_agent() {
  logged "systemctl daemon-reload" systemctl daemon-reload
  logged "enabling the agent" systemctl enable ovsnet.service
  # It has started when the node is ready, which needs more than we do here, such as the node's manifest.
  logged "starting the agent" systemctl restart --no-block ovsnet.service
}

uninstall_node() {
  local kind path sum
  local -a packages=()
  if [[ ! -e $(manifest) ]]; then
    say "nothing is installed here; nothing changed"
    return
  fi
  if [[ -z $ROOT && -d /run/systemd/system && -e /etc/systemd/system/ovsnet.service ]]; then
    change "stop the agent" logged "stopping the agent" systemctl disable --now ovsnet.service
  fi
  while read -r kind path sum <&3; do
    case $kind in
      file) uninstall_file "$path" "$sum" ;;
      saved) change "put back what was in ${path%.before-ovsnet}" restore_file "$path" ;;
      link) change "remove $path" rm -f "$path" ;;
      venv) change "remove $path" rm -rf "$path" ;;
      dir) uninstall_dir "$path" ;;
      package) packages+=("$path") ;;
    esac
  done 3< <(removal_order)
  while read -r path <&3; do
    uninstall_socket "$ROOT$path"
  done 3< <(of_kind socket)
  local -a bridges=()
  mapfile -t bridges < <(bridges_left)
  if [[ ${#bridges[@]} -gt 0 ]]; then
    say "kept: the bridge ${bridges[*]}, so that pods keep their network${packages[*]:+, and the packages it needs}; to remove it:"
    say "    ovs-vsctl${bridges[*]/#/ -- del-br }; nft delete table inet ovsnet; ip rule del pref 777; ip -6 rule del pref 777${packages[*]:+; $0 node --uninstall}"
  elif [[ ${#packages[@]} -gt 0 ]]; then
    change "remove packages: ${packages[*]}" remove_packages "${packages[@]}"
    packages=()
  fi
  [[ $DRY_RUN == yes ]] || close_manifest "${packages[@]}"
}

# Prints the paths or names of one kind in the manifest.
of_kind() { awk -v kind="$1" '$1 == kind { print $2 }' "$(manifest)"; }

# Prints those of the agent's bridges that are still there. An older manifest has none written down.
bridges_left() {
  local bridge
  [[ -z $ROOT ]] || return 0
  while read -r bridge; do
    # 2 is "there is none"; anything else, such as no answer, does not tell.
    local code=0
    ovs-vsctl -t 2 br-exists "$bridge" 2>/dev/null || code=$?
    if [[ $code -ne 2 ]]; then
      printf '%s\n' "$bridge"
    fi
  done < <(of_kind bridge | grep . || echo br-int)
}

# What the agent has left; not from under an agent that was started by hand.
uninstall_socket() {
  [[ -e $1.lock ]] || return 0
  if [[ $DRY_RUN == no ]] && ! flock -n "$1.lock" true; then
    say "kept: $1, where an agent still answers"
    return
  fi
  change "remove $1.lock" rm -f "$1.lock" "$1"
  [[ $DRY_RUN == yes ]] || rmdir "$(dirname "$1")" 2>/dev/null || true
}

# What is left in the manifest are the packages in the arguments, and why they are left; without any it goes.
close_manifest() {
  if [[ $# -gt 0 ]]; then
    local bridges
    bridges=$(grep '^bridge ' "$(manifest)" || true)
    printf 'package %s\n' "$@" >"$(manifest)"
    printf '%s' "${bridges:+$bridges$'\n'}" >>"$(manifest)"
    return
  fi
  rm -f "$(manifest)"
  rmdir "$(dirname "$(manifest)")" 2>/dev/null || true
}

# Files before what was there before them, folders when they are empty, the deepest first, packages last.
removal_order() {
  local kind
  for kind in file saved link venv dir package; do
    tac "$(manifest)" | awk -v kind="$kind" '$1 == kind'
  done
}

uninstall_file() {
  local path=$1 sum=$2
  if [[ ! -e $path ]]; then
    return
  elif [[ $(checksum "$path") == "$sum" ]]; then
    change "remove $path" rm -f "$path"
  else
    say "kept: $path was changed after it was installed"
  fi
}

restore_file() {
  if [[ -e ${1%.before-ovsnet} ]]; then
    say "kept: ${1%.before-ovsnet} was changed; what was there before it is $1"
  elif [[ -e $1 ]]; then
    mv "$1" "${1%.before-ovsnet}"
  fi
}

uninstall_dir() {
  if [[ $DRY_RUN == yes ]]; then
    say "would: remove $1 if it is empty"
  elif rmdir "$1" 2>/dev/null; then
    say "remove $1"
  elif [[ -d $1 ]]; then
    say "kept: $1 is not empty"
  fi
}

run_node() {
  local config="" uninstall=no
  while [[ $# -gt 0 ]]; do
    case $1 in
      --config) config=${2-}; shift "$(($# > 1 ? 2 : 1))" ;;
      --config=*) config=${1#*=}; shift ;;
      --root) ROOT=$(realpath -m "${2:-/}"); shift "$(($# > 1 ? 2 : 1))" ;;
      --root=*) ROOT=$(realpath -m "${1#*=}"); shift ;;
      --dry-run) DRY_RUN=yes; shift ;;
      --uninstall) uninstall=yes; shift ;;
      *) usage >&2; exit 2 ;;
    esac
  done
  [[ $ROOT != / ]] || ROOT=""
  [[ $ROOT != *[[:space:]]* ]] || fail "'$ROOT' has a space" "name another folder"
  if [[ -z $ROOT ]]; then
    [[ $DRY_RUN == yes ]] || need_root
  elif [[ $DRY_RUN == no ]]; then
    LOG=${OVSNET_BOOTSTRAP_LOG:-$ROOT/var/log/ovsnet-bootstrap.log}
    mkdir -p "$ROOT" "$(dirname "$LOG")"
  fi
  [[ $DRY_RUN == yes ]] || lock "${ROOT:-/run/lock/ovsnet-bootstrap.lock}"
  if [[ $uninstall == yes ]]; then
    uninstall_node
  else
    [[ -n $config ]] || fail "the configuration is missing" "$0 node --config FILE"
    install_node "$(realpath "$config")"
  fi
}

main() {
  local command=${1:-}
  [[ $# -eq 0 ]] || shift
  case $command in
    lab) run_lab "$@" ;;
    test) run_test "$@" ;;
    node) run_node "$@" ;;
    -h | --help | help) usage ;;
    "") usage >&2; exit 2 ;;
    *) printf 'error: there is no command %s\n\n' "$command" >&2; usage >&2; exit 2 ;;
  esac
}

main "$@"
