"""Files, processes, devices: what lies below the benchmark."""
