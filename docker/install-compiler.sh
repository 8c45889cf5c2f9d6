#!/bin/sh
# Install the C and C++ compilers that torch.compile calls when a job runs: triton's for the GPU, inductor's for the CPU.
set -eu

apt-get update
apt-get install --yes --no-install-recommends g++ gcc libc6-dev
rm -rf /var/lib/apt/lists/*
