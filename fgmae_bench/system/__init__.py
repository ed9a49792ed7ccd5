"""Files, processes, devices: what the benchmark stands on."""
