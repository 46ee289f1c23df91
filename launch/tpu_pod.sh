#!/usr/bin/env bash
# One run on a Cloud TPU slice, from v4-8 to whole pods, on spot capacity too: until the run is finished, what was
# preempted is created again and goes on from its newest checkpoint. The same command goes on where it was stopped.
#
#   launch/tpu_pod.sh --name NAME --zone us-central2-b --type v4-128 --workdir gs://BUCKET/run \
#       [--nfs SERVER:/SHARE] [--spot] [--project P] [--version V] [--restarts 0] [--poll_seconds 30] [--dry_run] -- --config configs/x.py
#
#   --name         of the queued resource and of the TPU
#   --type         accelerator type: v4-8, v4-128, v5litepod-16, v5p-32, v6e-64
#   --workdir      gs://BUCKET/FOLDER, where the TPU's service account may read and write, or a folder of the share
#   --nfs          a share (Filestore) that is mounted at /mnt/shared on every worker
#   --spot         capacity that may be taken away
#   --version      of the TPU software; otherwise the one of the type
#   --restarts     how many times a run that failed by itself starts again
#   --dry_run      print every command, execute nothing
#
# The commit HEAD of this checkout is what runs. Needs gcloud, logged in. launch/README.md says what was tried.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly MOUNT=/mnt/shared UNIT=imgcls_jax PYTHON_VERSION=3.12 PATIENCE=20

mistake() {
  echo "error: $1; see the head of launch/tpu_pod.sh" >&2
  exit 2
}

name='' zone='' type='' nfs='' workdir='' project='' version='' restarts=0 poll_seconds=30 spot=false dry_run=false
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    --spot) spot=true ;;
    --dry_run) dry_run=true ;;
    --name | --zone | --type | --nfs | --workdir | --project | --version | --restarts | --poll_seconds)
      [ $# -gt 1 ] || mistake "$1 has no value"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    *) mistake "what is '$1'? Arguments of imgcls_jax.main follow --" ;;
  esac
  shift
done
[ $# -gt 1 ] || mistake "the arguments of imgcls_jax.main are missing"
shift
for required in name zone type workdir; do
  [ -n "${!required}" ] || mistake "--$required is missing"
done
[[ $name =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] || mistake "--name is small letters, digits and '-'; got '$name'"
[[ -z $nfs || $nfs == ?*:/* ]] || mistake "--nfs is SERVER:/SHARE; got '$nfs'"
[[ $workdir == gs://?*/?* || ( -n $nfs && $workdir == "$MOUNT"/?* ) ]] ||
  mistake "--workdir is gs://BUCKET/FOLDER, or with --nfs a folder below $MOUNT; got '$workdir'"
[[ $restarts =~ ^[0-9]+$ && $poll_seconds =~ ^[0-9]+$ ]] || mistake "--restarts and --poll_seconds are whole numbers"
if [ -z "$version" ]; then
  case $type in
    v[234]-*) version=tpu-ubuntu2204-base ;;
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    v6e-*) version=v2-alpha-tpuv6e ;;
    *) mistake "--type '$type' is not known, so --version is needed" ;;
  esac
fi

place=(--zone="$zone" --quiet)
[ -z "$project" ] || place+=(--project="$project")
arguments=$(printf '%q ' --workdir="$workdir" "$@")
folder=${TMPDIR:-/tmp}/$name.XXXXXX
if ! $dry_run; then
  folder=$(mktemp -d -- "$folder") # which nobody else can have made
  trap 'rm -rf -- "$folder"' EXIT
fi
archive=$folder/$name.tar.gz

act() { # prints a command in a dry run, else runs it
  if $dry_run; then
    printf '%q ' "$@" && echo
  else
    "$@"
  fi
}

on() { # on WORKER COMMAND
  act gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker="$1" --command="$2"
}

state() { # of the queued resource; nothing where there is none
  act gcloud compute tpus queued-resources list "${place[@]}" --filter="name~/$name\$" --format="value(state.state)"
}

create() {
  local how=()
  ! $spot || how=(--spot)
  # With OS Login a user has the same number on every worker, so that all may write into the share.
  act gcloud compute tpus queued-resources create "$name" "${place[@]}" --node-id="$name" \
    --accelerator-type="$type" --runtime-version="$version" --metadata=enable-oslogin=TRUE "${how[@]}"
}

delete() {
  act gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force
}

case $workdir in
  gs://*) look_for='gcloud storage objects describe' ;;
  *) look_for='test -e' ;;
esac

probe() { # finished, active, failed or inactive; fails where worker 0 cannot be reached
  on 0 "if $look_for $(printf %q "$workdir/result.json") >/dev/null 2>&1; then echo finished; else systemctl is-active $UNIT || true; fi"
}

shared() { # the commands that make what all workers share
  [ -z "$nfs" ] || echo "if ! mountpoint -q $MOUNT; then
  sudo apt-get -qq -o DPkg::Lock::Timeout=300 update
  sudo apt-get -qq -o DPkg::Lock::Timeout=300 install -y nfs-common
  sudo mkdir -p $MOUNT
  sudo mount -t nfs $(printf %q "$nfs") $MOUNT
fi"
  [[ $workdir == gs://* ]] || echo "sudo install --directory --owner=\"\$(id -u)\" $(printf %q "$workdir")"
}

install() {
  act git archive --format=tar.gz --output="$archive" HEAD &&
    act gcloud compute tpus tpu-vm scp "$archive" "$name:$UNIT.tar.gz" "${place[@]}" --worker=all &&
    on all "set -e
sudo systemctl stop $UNIT 2>/dev/null || true
$(shared)
rm -rf $UNIT && mkdir $UNIT && tar -xzf $UNIT.tar.gz -C $UNIT && cd $UNIT
python3 -m pip install --user --quiet uv
python3 -m uv venv --quiet --python $PYTHON_VERSION .venv
sed 's/^jax==/jax[tpu]==/' requirements.txt > requirements-tpu.txt
python3 -m uv pip install --quiet --python .venv -r requirements-tpu.txt"
}

start() {
  on all "sudo systemctl stop $UNIT 2>/dev/null; sudo systemctl reset-failed $UNIT 2>/dev/null
cd $UNIT && sudo systemd-run --unit=$UNIT --uid=\"\$(id -u)\" --working-directory=\"\$PWD\" \
--setenv=PYTHONUNBUFFERED=1 --property=StandardOutput=append:\"\$HOME/$UNIT.log\" \
\"\$PWD/.venv/bin/python\" -m imgcls_jax.main --distributed $arguments"
}

follow() { # until the process ends or the connection breaks
  on 0 "pid=\$(systemctl show --property=MainPID --value $UNIT)
[ \"\$pid\" -eq 0 ] || tail --lines=50 --follow --pid=\"\$pid\" \"\$HOME/$UNIT.log\""
}

if $dry_run; then
  echo "# every $poll_seconds s: the state of the request" && state
  echo "# there is none" && create
  echo "# ACTIVE: how is the run?" && probe
  echo "# inactive: not started, or stopped" && install && start
  echo "# active" && follow
  echo "# SUSPENDED, which follows a preemption: from the top again" && delete
  exit 0
fi

started=false
attend() { # one look at the run on a TPU that is ACTIVE
  local condition
  condition=$(probe) || return
  echo "launch: the run is $condition"
  case $condition in
    finished)
      echo "launch: the TPU still stands and costs: gcloud compute tpus queued-resources delete $name ${place[*]} --force"
      exit 0
      ;;
    active | activating | deactivating) follow || true ;;
    *)
      if [ "$condition" = failed ] && $started; then
        restarts=$((restarts - 1))
        [ "$restarts" -ge 0 ] || exit 1
      fi
      install && start && started=true
      ;;
  esac
}

look() { # one round; fails where gcloud or the TPU did not answer
  local condition
  condition=$(state) || return
  case $condition in
    '') create ;;
    ACTIVE) attend ;;
    SUSPENDED) delete ;;
    FAILED) echo "error: the request $name FAILED; describe it with gcloud, then delete it" >&2 && exit 1 ;;
    *) echo "launch: $name is $condition" ;;
  esac
}

misses=0
while true; do
  if look; then misses=0; else misses=$((misses + 1)); fi
  [ "$misses" -lt "$PATIENCE" ] || { echo "error: no answer $PATIENCE times in a row" >&2 && exit 1; }
  sleep "$poll_seconds"
done
