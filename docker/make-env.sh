#!/bin/sh
# Write .env for docker-compose.yml: a random password for Redis, and the worker's profile by what the machine has.
#
#   sh docker/make-env.sh [FILE]
#
# FILE is .env unless given. One that is there is left alone: its password is the one that Redis's clients were given.
set -eu
file=${1:-.env}

if [ -e "$file" ]; then
    echo "$file is there already; it is left as it is" >&2
    exit 1
fi
if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU; then
    profile=gpu
else
    profile=cpu
fi
password=$(od -An -N 32 -tx1 /dev/urandom | tr -d ' \n')

umask 077
set -C # never write over a file, not even one made this moment
cat >"$file" <<END
# Made by docker/make-env.sh; .env.example says what else can stand here.
TLEG_REDIS_PASSWORD=$password
COMPOSE_PROFILES=$profile
END
echo "wrote $file: profile $profile, a random password for Redis" >&2
