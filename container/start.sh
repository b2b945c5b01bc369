#!/bin/sh
# What the container runs: the MRD server on the port of label.json, with the images that consoles want. Options given
# here come after these, and win. The run lies in /opt/run, or where SANSREF_RUN says.
exec sansref serve "${SANSREF_RUN:-/opt/run}" --host 0.0.0.0 --port 9002 --pixel int16 "$@"
