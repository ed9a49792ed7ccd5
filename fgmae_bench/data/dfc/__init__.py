"""SEN12MS, DFC2020 and other images with label maps beside them: names, files, histograms, and what the labels look
like.
"""
