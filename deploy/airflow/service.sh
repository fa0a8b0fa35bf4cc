#!/bin/sh
# A service as a process of its own, for the runner `local`: service.sh start|stop auth|serve, in the workspace.
# Started twice it runs once; it ends when it is told to, not when the task ends that started it.
set -eu
what=$1 name=$2
pid_file=data/$name.pid

running() { [ -f "$pid_file" ] && kill -0 "$(cat "$pid_file")" 2>/dev/null; }

# Where it listens: what it said when it started.
address() { sed -n 's/.* serving.* url=\(http[^ ]*\).*/\1/p' "data/$name.log" 2>/dev/null | tail -n 1; }

ready() { python -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1] + "/readyz", timeout=2)' "$(address)" 2>/dev/null; }

case $what in
start)
  if ! running; then
    mkdir -p data
    : >"data/$name.log"
    setsid aisle "$name" >>"data/$name.log" 2>&1 </dev/null &
    echo $! >"$pid_file"
  fi
  seconds=0
  until ready; do
    running || { cat "data/$name.log"; exit 1; }
    [ "$seconds" -lt 60 ] || { echo "$name is not ready after $seconds s, see data/$name.log"; exit 1; }
    sleep 1
    seconds=$((seconds + 1))
  done
  echo "$name is ready: $(address)"
  ;;
stop)
  if running; then kill "$(cat "$pid_file")"; fi
  rm -f "$pid_file"
  ;;
*)
  echo "service.sh start|stop NAME" >&2
  exit 2
  ;;
esac
