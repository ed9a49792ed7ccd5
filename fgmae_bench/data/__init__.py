"""From bytes on disk to backscatter in dB with a validity mask: layout, index, splits, and the check against the
card.
"""
