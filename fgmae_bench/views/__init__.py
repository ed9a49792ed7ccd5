"""From backscatter in dB to what a backbone is fed."""
