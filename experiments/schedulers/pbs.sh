#!/bin/bash
# One command of a suite for each sub-job of a PBS array (OpenPBS, PBS Professional). On the login node:
#
#   python -m fgmae_bench.suite plan --commands experiments/eurosat_linear.toml > commands.txt
#   qsub -J 1-$(wc -l < commands.txt)%8 -v COMMANDS=$PWD/commands.txt experiments/schedulers/pbs.sh
#
# A sub-job that is started again, or whose run another has recorded, ends at once or goes on from its checkpoint. An
# array of one line is not an array for PBS: give -v COMMANDS=...,PBS_ARRAY_INDEX=1 and no -J.
#PBS -N fgmae_bench
#PBS -l select=1:ncpus=8:ngpus=1:mem=32gb
#PBS -l walltime=04:00:00
#PBS -r y
#PBS -j oe
set -euo pipefail
cd "${PBS_O_WORKDIR:-$PWD}"
if [ -f .venv/bin/activate ]; then source .venv/bin/activate; fi
line=$(sed -n "${PBS_ARRAY_INDEX:?submit with qsub -J}p" "${COMMANDS:?give -v COMMANDS=FILE}")
if [ -z "$line" ]; then echo "error: $COMMANDS has no line $PBS_ARRAY_INDEX" >&2; exit 2; fi
exec bash -c "$line"
