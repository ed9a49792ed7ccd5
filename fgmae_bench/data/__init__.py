"""From bytes on disk to backscatter in dB with a validity mask: layout, index, splits, check against the card."""
